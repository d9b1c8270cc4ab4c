//! Runs as others see them.

mod common;
#[path = "seen/tensorboard.rs"]
mod tensorboard;
#[path = "reliability/tiny.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod tiny;
