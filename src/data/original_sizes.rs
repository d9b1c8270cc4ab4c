//! The sizes of image files before they are cropped and resized.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use image::ImageReader;

use super::Manifest;
use super::manifest::unescape;
use crate::fs::open_regular;

/// How many files are of each width and height: of at most `most` images, spread evenly over all. Files that are not below
/// `folder` any more, and all of another source than a folder, are passed over. Only the start of each file is read.
pub fn original_sizes(folder: &Path, images: &Manifest, most: usize) -> BTreeMap<(u32, u32), u64> {
    let mut sizes = BTreeMap::new();
    let count = images.len().min(most);
    for place in 0..count {
        let name = images
            .name(place * images.len() / count)
            .unwrap_or_default();
        let size = unescape(name).and_then(|name| size_below(folder, OsStr::from_bytes(&name)));
        if let Some(size) = size {
            *sizes.entry(size).or_default() += 1;
        }
    }
    sizes
}

/// The list of images is a file like others: no name in it leads out of the folder.
fn size_below(folder: &Path, name: &OsStr) -> Option<(u32, u32)> {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    Path::new(name)
        .components()
        .all(plain)
        .then(|| size(&folder.join(name)))?
}

fn size(path: &Path) -> Option<(u32, u32)> {
    let reader = BufReader::new(open_regular(path).ok()?);
    let reader = ImageReader::new(reader).with_guessed_format().ok()?;
    reader.into_dimensions().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        for (name, width) in [("a.png", 3), ("b.png", 5), ("c.png", 5)] {
            image::RgbImage::new(width, 2)
                .save(dir.path().join(name))
                .unwrap();
        }
        std::fs::write(dir.path().join("d.png"), "no image").unwrap();
        let names = ["a.png", "b.png", "c.png", "d.png", "gone.png", "../a.png"];
        let images = Manifest::new(names.map(|name| (name.to_owned(), 0)));
        let sizes = original_sizes(dir.path(), &images, 10);
        assert_eq!(sizes, BTreeMap::from([((3, 2), 1), ((5, 2), 2)]));
        assert_eq!(
            original_sizes(dir.path(), &images, 1),
            BTreeMap::from([((3, 2), 1)])
        );
        assert!(original_sizes(&dir.path().join("none"), &images, 10).is_empty());
    }
}
