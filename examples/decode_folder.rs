//! Decodes the images of a folder as training does, each at its own size, for comparison with other decoders.
//!
//! ```sh
//! cargo run --release --example decode_folder -- DIR OUT.safetensors [fast|area]
//! ```
//!
//! OUT holds `[height, width, 3]` u8 by file name. For each file that is not read, a line: name, tab, reason. With a
//! way of resizing, each image is decoded to an eighth of its size: by `fast`, JPEG is then decoded at a quarter first.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use ddpm::config::Resize;
use ddpm::data::{DataError, ImageSpec, decode, upright_size};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, out, rest @ ..] = &arguments[..] else {
        anyhow::bail!("want DIR OUT.safetensors [fast|area]");
    };
    let eighth = match rest {
        [] => None,
        [way] if way == "fast" => Some(Resize::Fast),
        [way] if way == "area" => Some(Resize::Area),
        _ => anyhow::bail!("want fast or area after the files"),
    };
    let mut images = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy();
        match pixels(&path, eighth) {
            Ok(image) => drop(images.insert(name.into_owned(), image)),
            // With its causes.
            Err(error) => println!("{name}\t{:#}", anyhow::Error::new(error)),
        }
    }
    let mut views = Vec::new();
    for (name, (shape, bytes)) in &images {
        views.push((name, TensorView::new(Dtype::U8, shape.clone(), bytes)?));
    }
    Ok(serialize_to_file(views, None, Path::new(out))?)
}

/// Shape and bytes.
fn pixels(path: &Path, eighth: Option<Resize>) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let (height, width) = upright_size(path)?;
    let spec = match eighth {
        Some(resize) => ImageSpec {
            resize,
            ..ImageSpec::rgb((height / 8).max(1), (width / 8).max(1))
        },
        None => ImageSpec::rgb(height, width),
    };
    let pixels = decode(path, &spec)?.pixels;
    Ok((pixels.shape().to_vec(), pixels.into_iter().collect()))
}
