//! Reads a checkpoint of another program, prints what was found in it, and writes it as a file that says everything.
//!
//! ```sh
//! cargo run --release --example import -- model-10.pt imported.safetensors 64
//! ```
//!
//! The last argument is a hint: the height and width of the images, which lucidrains' files do not hold.

use std::path::Path;

use anyhow::{Context, Result};
use ddpm::Pretrained;
use ddpm::checkpoint::write_checkpoint;
use ddpm::interop::{Hints, MissingHints, Request};
use ddpm::tch::Device;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: import FILE OUT.safetensors [SIDE]";
    let file = arguments.next().context(usage)?;
    let out = arguments.next().context(usage)?;
    let side = arguments.next().map(|side| side.parse()).transpose()?;

    let request = Request {
        hints: Hints {
            image_size: side.map(|side| (side, side)),
            ..Hints::default()
        },
        ..Request::default()
    };
    let pretrained = match Pretrained::load_with(&file, &request, Device::Cpu) {
        Ok(pretrained) => pretrained,
        Err(error) => {
            // A file that leaves something open says what.
            if let Some(missing) = error.downcast_ref::<MissingHints>() {
                println!("{} hints are missing", missing.report.missing.len());
            }
            return Err(error);
        }
    };
    for fact in pretrained.report.iter().flat_map(|report| &report.facts) {
        println!("{}: {}", fact.what, fact.value);
    }
    write_checkpoint(Path::new(&out), &pretrained.meta, &pretrained.state_dict())
}
