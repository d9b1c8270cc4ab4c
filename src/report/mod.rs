//! What a run leaves to look at: metrics.jsonl, grids and animations of images; plots; and
//! events for TensorBoard.

mod animation;
mod figure;
mod image_settings;
mod in_terminal;
mod mark;
mod mean;
mod metrics;
mod names;
mod plot;
mod png_text;
mod tensorboard;
mod units;

pub use animation::{ANIMATION_ENDINGS, frame_steps, strip, write_animation, write_animation_with};
pub use figure::{
    beside, encode_png, grid, grid_of_columns, mean_sq_error, psnr_db, read_png, write_png,
    write_png_with,
};
pub use image_settings::{
    GuidanceSettings, ImageSettings, InterpolationSettings, NetworkSettings, OfClass,
    SamplerSettings, StageSettings, StartSettings,
};
pub use in_terminal::{TerminalProtocol, in_terminal};
pub(crate) use mark::{is_marked, is_marked_in};
pub use mean::Mean;
pub use metrics::{
    EvaluationHistory, EvaluationMetrics, Later, Line, LossByT, Metrics, PARTS_OF_T, StepMetrics,
    TimedEvaluation, evaluation_history, evaluations, last_step, newest_steps, of_step, read_lines,
};
pub use names::with_names;
pub use plot::{Plot, PlotAxis, PlotLine};
pub use png_text::settings_of_png;
pub use tensorboard::{Event, EventCurves, EventsWriter, Gauge, Value, is_events_file};
pub use units::{bytes, count, duration};
