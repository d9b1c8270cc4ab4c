//! Runs as others see them: TensorBoard, and `ddpm runs`.

mod common;
#[path = "seen/runs.rs"]
mod runs;
#[path = "seen/tensorboard.rs"]
mod tensorboard;
#[path = "reliability/tiny.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod tiny;
