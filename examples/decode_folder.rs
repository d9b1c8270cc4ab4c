//! Decodes the images of a folder as training does, each at its own size, for comparison with other decoders.
//!
//! ```sh
//! cargo run --release --example decode_folder -- DIR OUT.safetensors [--shrink]
//! ```
//!
//! OUT holds `[height, width, 3]` u8 by file name. For each file that is not read, a line: name, tab, reason. With
//! `--shrink`, each image is decoded to an eighth of its size by `--resize fast`, which decodes JPEG at a quarter.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use anyhow::{Context, Result};
use ddpm::config::Resize;
use ddpm::data::{DataError, ImageSpec, decode, upright_size};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, out, ..] = &arguments[..] else {
        anyhow::bail!("want DIR OUT.safetensors");
    };
    let shrink = arguments.iter().any(|argument| argument == "--shrink");
    let mut images = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy();
        match pixels(&path, shrink) {
            Ok(image) => drop(images.insert(name.into_owned(), image)),
            Err(error) => println!("{name}\t{}", reason(&error)),
        }
    }
    let mut views = Vec::new();
    for (name, (shape, bytes)) in &images {
        views.push((name, TensorView::new(Dtype::U8, shape.clone(), bytes)?));
    }
    Ok(serialize_to_file(views, None, Path::new(out))?)
}

/// Shape and bytes.
fn pixels(path: &Path, shrink: bool) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let (height, width) = upright_size(path)?;
    let spec = match shrink {
        true => ImageSpec {
            resize: Resize::Fast,
            ..ImageSpec::rgb((height / 8).max(1), (width / 8).max(1))
        },
        false => ImageSpec::rgb(height, width),
    };
    let pixels = decode(path, &spec)?.pixels;
    Ok((pixels.shape().to_vec(), pixels.into_iter().collect()))
}

/// The error and its causes.
fn reason(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(|cause| cause.to_string())
        .collect::<Vec<_>>()
        .join(": ")
}
