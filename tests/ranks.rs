//! Several ranks, under the torchrun of `.venv`: they train to the bits of one process, whatever their number, and whatever
//! happens to one of them.
//!
//! The long form of the faults is `scripts/reliability/chaos_ranks.sh`.

mod common;
#[path = "ranks/evaluations.rs"]
mod evaluations;
#[path = "ranks/faults.rs"]
mod faults;
#[path = "ranks/inside.rs"]
mod inside;
#[path = "ranks/launch.rs"]
mod launch;
#[path = "ranks/refused.rs"]
mod refused;
#[path = "ranks/same_bits.rs"]
mod same_bits;
#[path = "ranks/team.rs"]
mod team;
#[allow(dead_code, reason = "each test binary uses a part")]
#[path = "reliability/tiny.rs"]
mod tiny;
