//! What a run leaves to look at: metrics.jsonl, grids and animations of images; plots; and
//! events for TensorBoard.

mod animation;
mod figure;
mod mark;
mod metrics;
mod names;
mod plot;
mod tensorboard;
mod units;

pub use animation::{ANIMATION_ENDINGS, frame_steps, strip, write_animation};
pub use figure::{beside, grid, grid_of_columns, mean_sq_error, psnr_db, read_png, write_png};
pub(crate) use mark::{is_marked, is_marked_in};
pub use metrics::{
    EvaluationHistory, EvaluationMetrics, Later, Line, LossByT, Metrics, PARTS_OF_T, StepMetrics,
    TimedEvaluation, evaluation_history, evaluations, last_step, newest_steps, of_step, read_lines,
};
pub use names::with_names;
pub use plot::{Plot, PlotAxis, PlotLine};
pub use tensorboard::{Curves, Event, EventsWriter, Gauge, Value, is_events_file};
pub use units::{bytes, count, duration};
