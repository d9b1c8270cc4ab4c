//! Features of a face: chosen at random, painted back to front.

use super::mix;
use super::shape::{Colour, Layer, Pair, Shape};

const SKIN: [Colour; 5] = [
    [255.0, 223.0, 196.0],
    [242.0, 200.0, 164.0],
    [222.0, 166.0, 122.0],
    [184.0, 126.0, 84.0],
    [128.0, 82.0, 56.0],
];
const HAIR: [Colour; 6] = [
    [28.0, 24.0, 26.0],
    [82.0, 46.0, 28.0],
    [236.0, 200.0, 108.0],
    [200.0, 88.0, 36.0],
    [210.0, 210.0, 214.0],
    [38.0, 112.0, 132.0],
];
const IRIS: [Colour; 3] = [[40.0, 24.0, 20.0], [24.0, 62.0, 118.0], [24.0, 74.0, 44.0]];
const WHITE: Colour = [250.0, 250.0, 250.0];
/// Lips on light and on dark skin: either has to stand out.
const LIPS: [Colour; 2] = [[160.0, 24.0, 40.0], [240.0, 124.0, 128.0]];
const INSIDE_MOUTH: Colour = [104.0, 16.0, 28.0];

/// A face, ready to be painted.
pub(super) struct Portrait {
    /// The colour behind everything.
    pub(super) background: Colour,
    /// Size: the head's width is about half this share of the image's shorter side.
    pub(super) scale: f32,
    /// Offset of the face's origin from the image's centre.
    pub(super) shift: Pair,
    /// Layers to paint, in order.
    pub(super) layers: Vec<Layer>,
}

impl Portrait {
    /// Face number `index` of `seed`.
    pub(super) fn draw(seed: u64, index: u64) -> Self {
        let mut draws = Draws::new(seed, index);
        // From green to pink: a head of the background's colour would be hard to see.
        let background = hsv(
            draws.range(0.2, 0.95),
            draws.range(0.25, 0.6),
            draws.range(0.6, 0.92),
        );
        Self {
            background,
            scale: draws.range(1.05, 1.15),
            shift: [draws.range(-0.04, 0.04), draws.range(-0.04, 0.04)],
            layers: Sitter::new(draws).layers(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hair {
    Bald,
    Short,
    Long,
    Bun,
    Afro,
    Pigtails,
}

/// A face being assembled.
struct Sitter {
    draws: Draws,
    layers: Vec<Layer>,
    skin: Colour,
    hair: Hair,
    hair_colour: Colour,
    /// The head's half axes.
    head: Pair,
}

impl Sitter {
    fn new(mut draws: Draws) -> Self {
        use Hair::{Afro, Bald, Bun, Long, Pigtails, Short};
        Self {
            layers: Vec::new(),
            skin: draws.between(&SKIN),
            hair: draws.pick(&[Bald, Short, Long, Bun, Afro, Pigtails]),
            hair_colour: draws.pick(&HAIR),
            head: [draws.range(0.46, 0.54), draws.range(0.55, 0.61)],
            draws,
        }
    }

    /// Paints from back to front.
    fn layers(mut self) -> Vec<Layer> {
        self.ears();
        self.hair();
        self.body();
        self.face();
        self.eyes();
        self.mouth();
        self.layers
    }

    fn add(&mut self, shape: Shape, colour: Colour) {
        self.layers.push(Layer { shape, colour });
    }

    fn ellipse(&mut self, centre: Pair, radii: Pair, colour: Colour) {
        self.add(Shape::Ellipse { centre, radii }, colour);
    }

    /// The skin's colour in the shade.
    fn shade(&self) -> Colour {
        self.skin.map(|value| value * 0.85)
    }

    fn ears(&mut self) {
        for side in [-1.0, 1.0] {
            self.ellipse([side * self.head[0], 0.08], [0.11, 0.13], self.shade());
        }
    }

    /// Hair behind the head.
    fn hair(&mut self) {
        let ([w, h], colour) = (self.head, self.hair_colour);
        match self.hair {
            Hair::Bald | Hair::Short => {}
            Hair::Long => self.ellipse([0.0, 0.25], [w + 0.18, h + 0.33], colour),
            Hair::Bun => self.ellipse([0.0, -h - 0.12], [0.24, 0.18], colour),
            Hair::Afro => self.ellipse([0.0, -0.16], [w + 0.26, h + 0.14], colour),
            Hair::Pigtails => {
                for side in [-1.0, 1.0] {
                    self.ellipse([side * (w + 0.14), 0.1], [0.17, 0.27], colour);
                }
            }
        }
    }

    fn body(&mut self) {
        let shirt = hsv(
            self.draws.unit(),
            self.draws.range(0.4, 0.7),
            self.draws.range(0.4, 0.85),
        );
        self.ellipse([0.0, 1.2], [0.85, 0.5], shirt);
        self.ellipse([0.0, 0.6], [0.18, 0.22], self.shade());
    }

    /// The head, its upper part covered by hair: a lower face on a head of hair.
    fn face(&mut self) {
        let [w, h] = self.head;
        let mut covered = 0.0;
        if self.hair != Hair::Bald {
            covered = self.draws.range(0.08, 0.14);
            self.ellipse([0.0, -0.08], [w + 0.05, h], self.hair_colour);
        }
        self.ellipse([0.0, covered], [w, h - covered], self.skin);
        self.ellipse(
            [0.0, 0.15],
            [0.065, 0.06],
            self.skin.map(|value| value * 0.78),
        );
    }

    fn eyes(&mut self) {
        let iris = self.draws.pick(&IRIS);
        let apart = self.draws.range(0.2, 0.24);
        let radii = [self.draws.range(0.13, 0.16), self.draws.range(0.11, 0.15)];
        for side in [-1.0, 1.0] {
            let centre = [side * apart, -0.02];
            self.ellipse(centre, radii, WHITE);
            self.ellipse(centre, [0.085, 0.085], iris);
        }
    }

    /// The mouth: smiling, neutral or open with teeth.
    fn mouth(&mut self) {
        let half_width = self.draws.range(0.17, 0.23);
        let line = |y, half_width, rise| Shape::Arc {
            middle: [0.0, y],
            half_width,
            rise,
            thickness: 0.036,
        };
        let lips = LIPS[usize::from(self.skin[0] < 170.0)];
        match self.draws.pick(&[0, 0, 1, 2]) {
            0 => self.add(line(0.39, half_width, 0.1), lips),
            1 => self.add(line(0.36, half_width, 0.0), lips),
            _ => {
                self.ellipse([0.0, 0.38], [half_width, 0.12], INSIDE_MOUTH);
                self.add(line(0.33, half_width * 0.6, 0.0), WHITE);
            }
        }
    }
}

/// Converts hue, saturation and value, each 0 to 1, to a colour.
fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + hue * 6.0) % 6.0;
        let chroma = k.min(4.0 - k).clamp(0.0, 1.0);
        255.0 * value * (1.0 - saturation * chroma)
    })
}

/// Random numbers that depend only on (seed, index).
///
/// A counter and a hash, splitmix64, in place of a library's generator: any face can be drawn
/// without those before it, on any thread, and no update of a library can change the data set.
///
/// Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", and the
/// constants of <https://prng.di.unimi.it/splitmix64.c>
struct Draws {
    state: u64,
}

impl Draws {
    fn new(seed: u64, index: u64) -> Self {
        // Hashing between the two keeps (1, 2) and (2, 1) apart.
        let mut by_seed = Self { state: seed };
        let mut by_both = Self {
            state: by_seed.bits() ^ index,
        };
        Self {
            state: by_both.bits(),
        }
    }

    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1): a multiple of 2^-24, exact in f32.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.unit() * from.len() as f32) as usize]
    }

    /// A random point on the line through a row of colours.
    fn between(&mut self, colours: &[Colour]) -> Colour {
        let at = self.unit() * (colours.len() - 1) as f32;
        let low = at as usize;
        mix(colours[low], colours[low + 1], at - low as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs of the reference program for the state 1234567.
        let mut draws = Draws { state: 1_234_567 };
        assert_eq!(draws.bits(), 6_457_827_717_110_365_317);
        assert_eq!(draws.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn hues_go_round_the_wheel() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [255.0, 0.0, 0.0]);
        assert_eq!(hsv(0.5, 1.0, 1.0), [0.0, 255.0, 255.0]);
        assert_eq!(hsv(0.3, 0.0, 1.0), [255.0; 3]);
    }
}
