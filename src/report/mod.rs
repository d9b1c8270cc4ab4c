//! What a run tells: a progress bar, metrics.jsonl, grids of pictures.

mod figure;
mod metrics;
mod progress;
mod units;

pub use figure::{grid, to_pixels, write_png};
pub use metrics::{Metrics, StepMetrics};
pub use progress::{DecodeProgress, SampleProgress, TrainProgress};
pub use units::{bytes, count, duration};
