//! The nearest training images of generated ones, as JSON and for people.

use serde::Serialize;

use crate::cli::out;

/// What is printed.
#[derive(Serialize)]
pub(super) struct Report {
    /// The network whose features are compared, if pixels are not.
    pub(super) features: Option<String>,
    pub(super) generated: String,
    pub(super) training: String,
    pub(super) held_out: Option<String>,
    pub(super) mirrored: bool,
    pub(super) median_distance: f64,
    pub(super) held_out_median_distance: Option<f64>,
    pub(super) nearer_than_half_of_held_out: Option<f64>,
    pub(super) nearer_than_99_percent_of_held_out: Option<f64>,
    pub(super) chance: Option<f64>,
    pub(super) images: Vec<OfImage>,
}

#[derive(Serialize)]
pub(super) struct OfImage {
    pub(super) image: String,
    pub(super) nearest: Vec<Neighbour>,
}

#[derive(Serialize)]
pub(super) struct Neighbour {
    pub(super) name: String,
    pub(super) mirrored: bool,
    pub(super) distance: f64,
}

impl Report {
    /// Prints it for people, with so many images.
    pub(super) fn print(&self, show: usize) {
        let also = if self.mirrored { ", also mirrored" } else { "" };
        out::result(&format!("{}, {}{also}", self.generated, self.training));
        let unit = match &self.features {
            Some(network) => format!(", in features of {network}"),
            None => " levels".to_owned(),
        };
        out::result(&format!(
            "distance to the nearest training image: median {:.2}{unit}",
            self.median_distance
        ));
        match (
            &self.held_out,
            self.held_out_median_distance,
            self.nearer_than_half_of_held_out,
            self.nearer_than_99_percent_of_held_out,
            self.chance,
        ) {
            (Some(held_out), Some(median), Some(half), Some(nearest), Some(chance)) => {
                out::result(&format!(
                    "of held-out images ({held_out}): median {median:.2}"
                ));
                out::result(&format!(
                    "nearer than half of the held-out images: {:.1} % (50 % if nothing is copied)",
                    100.0 * half
                ));
                out::result(&format!(
                    "nearer than 99 % of the held-out images: {:.1} % (1 ± {:.1} % if nothing is copied)",
                    100.0 * nearest,
                    100.0 * chance
                ));
            }
            _ => out::result(
                "how near is near? --held-out DIR compares with images that were not trained on",
            ),
        }
        for image in self.images.iter().take(show) {
            let near: Vec<String> = image.nearest.iter().map(named).collect();
            out::result(&format!("  {}: {}", image.image, near.join(", ")));
        }
    }
}

fn named(near: &Neighbour) -> String {
    let mirrored = if near.mirrored { " mirrored" } else { "" };
    format!("{}{mirrored} {:.2}", near.name, near.distance)
}
