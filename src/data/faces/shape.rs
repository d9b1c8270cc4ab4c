//! The two shapes that make up faces, as signed distances to their edge.
//!
//! Face coordinates: the head's centre is near (0, 0), x goes right and y down, and the image's
//! shorter side is about 2 long. Distances are negative inside and in the same unit.

/// Red, green and blue, 0 to 255.
pub(super) type Colour = [f32; 3];

/// A point or a pair of lengths, x and y.
pub(super) type Pair = [f32; 2];

/// A flat shape.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// Filled, with half axes along x and y.
    Ellipse { centre: Pair, radii: Pair },
    /// A line with round ends, `half_width` to the left and right and `thickness` to each side. Its
    /// ends are `rise` above its middle.
    Arc {
        middle: Pair,
        half_width: f32,
        rise: f32,
        thickness: f32,
    },
}

/// A shape of one colour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    pub(super) shape: Shape,
    pub(super) colour: Colour,
}

impl Shape {
    /// The centre and half sides of a box that holds the shape.
    pub(super) fn bounds(&self) -> (Pair, Pair) {
        match *self {
            Self::Ellipse { centre, radii } => (centre, radii),
            Self::Arc {
                middle: [x, y],
                half_width,
                rise,
                thickness,
            } => (
                [x, y - rise / 2.0],
                [half_width + thickness, rise.abs() / 2.0 + thickness],
            ),
        }
    }

    /// Distance of `at` from the edge; negative inside.
    pub(super) fn distance(&self, at: Pair) -> f32 {
        match *self {
            Self::Ellipse { centre, radii } => {
                // Not the exact distance, whose formula is long, but right at the edge and to first order
                // near it, where it counts: f / |grad f| of f = |p / r| - 1.
                let p = [0, 1].map(|i| (at[i] - centre[i]) / radii[i]);
                let level = length(p);
                let slope = length([p[0] / radii[0], p[1] / radii[1]]);
                if slope == 0.0 {
                    -radii[0].min(radii[1])
                } else {
                    level * (level - 1.0) / slope
                }
            }
            Self::Arc {
                middle,
                half_width,
                rise,
                thickness,
            } => {
                // A parabola; beyond its ends, the distance to the end.
                let [x, y] = [at[0] - middle[0], at[1] - middle[1]];
                let nearest = x.clamp(-half_width, half_width);
                let bend = rise / (half_width * half_width);
                let off = y + bend * nearest * nearest;
                let tilt = 2.0 * bend * nearest;
                length([x - nearest, off / (1.0 + tilt * tilt).sqrt()]) - thickness
            }
        }
    }
}

fn length([x, y]: Pair) -> f32 {
    (x * x + y * y).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_distance(shape: Shape, at: Pair, wanted: f32) {
        let got = shape.distance(at);
        assert!(
            (got - wanted).abs() < 1e-6,
            "{shape:?} at {at:?}: {got}, wanted {wanted}"
        );
    }

    #[test]
    fn distances_are_right_on_the_axes() {
        let circle = Shape::Ellipse {
            centre: [1.0, 0.0],
            radii: [2.0, 2.0],
        };
        assert_distance(circle, [1.0, 0.0], -2.0);
        assert_distance(circle, [4.0, 0.0], 1.0);
        let ellipse = Shape::Ellipse {
            centre: [0.0, 0.0],
            radii: [2.0, 1.0],
        };
        assert_distance(ellipse, [3.0, 0.0], 1.0);
        assert_distance(ellipse, [0.0, -1.0], 0.0);
        let smile = Shape::Arc {
            middle: [0.0, 0.0],
            half_width: 1.0,
            rise: 0.5,
            thickness: 0.1,
        };
        assert_distance(smile, [0.0, 0.3], 0.2);
        assert_distance(smile, [1.0, -0.5], -0.1);
    }
}
