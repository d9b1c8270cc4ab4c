//! Runs that are killed, starved of disk, fed bad numbers and told to stop: nothing is lost, and what
//! comes out is what an undisturbed run gives.
//!
//! The long forms are `chaos.sh` and `faults.sh` in `scripts/reliability/`; what they printed is in
//! docs/reliability.md.

#[path = "reliability/bad_steps.rs"]
mod bad_steps;
mod common;
#[path = "reliability/disk.rs"]
mod disk;
#[path = "reliability/files.rs"]
mod files;
#[path = "reliability/held_out.rs"]
mod held_out;
#[path = "reliability/labels.rs"]
mod labels;
#[path = "reliability/lost_parts.rs"]
mod lost_parts;
#[path = "reliability/moved_images.rs"]
mod moved_images;
#[path = "reliability/old_ddcm.rs"]
mod old_ddcm;
#[path = "reliability/old_runs.rs"]
mod old_runs;
#[path = "reliability/outputs.rs"]
mod outputs;
#[path = "reliability/signals.rs"]
mod signals;
#[path = "reliability/tiny.rs"]
mod tiny;
