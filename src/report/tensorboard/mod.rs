//! TensorBoard's files of events: `RUN/events.out.tfevents.…`.
//!
//! - `record`: the frame of a record, with its checksums; `event`: what is in one
//! - `file`: the file of one start, its name and what is written of it
//! - `curves`: from the numbers of steps to points of curves, not too many
//! - `writer`: a thread of its own that writes, which nothing waits for
//!
//! Why not by a crate: those that write events bring along a compiler of protocol buffers, or a whole other version of the
//! crate `image`, for six messages of a few fields each. The checksum is the crate `crc32c`'s.

mod curves;
mod event;
mod file;
mod record;
mod writer;

pub use curves::EventCurves;
pub use event::{Event, Value};
pub use file::is_events_file;
pub use writer::{EventsWriter, Gauge};
