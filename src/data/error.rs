//! What can go wrong between a folder of files and a buffer of pixels.

use std::path::PathBuf;

use crate::report::bytes;

/// A data set that cannot be used, or one image of it that cannot be read.
///
/// A few bad images do not spoil a data set: loading a folder leaves them out and
/// lists them.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The path of the data set does not exist.
    #[error("there is no folder {}: give the folder that holds the images", dir.display())]
    NoSuchFolder {
        /// The path as given.
        dir: PathBuf,
    },

    /// The path of the data set is a file.
    #[error("{} is not a folder: give the folder that holds the images", dir.display())]
    NotAFolder {
        /// The path as given.
        dir: PathBuf,
    },

    /// The folder exists, but no file in it or below it looks like an image.
    #[error(
        "no images in {} or below it: looked for files ending in .{}{}",
        dir.display(),
        extensions.join(", ."),
        unreadable_note(*unreadable)
    )]
    NoImages {
        /// The folder searched.
        dir: PathBuf,
        /// The endings looked for, lower case, without the dot.
        extensions: &'static [&'static str],
        /// How many entries below the folder could not be read, and so were not searched.
        unreadable: usize,
    },

    /// Every single image failed; the reasons usually name the cause.
    #[error(
        "none of the {count} images in {} could be read, for example {}",
        dir.display(),
        reasons.join("; ")
    )]
    NoneReadable {
        /// The folder searched.
        dir: PathBuf,
        /// How many files looked like images.
        count: usize,
        /// The first few failures, each as `path: reason`.
        reasons: Vec<String>,
    },

    /// The file could be opened, but not decoded: damaged, or of a kind that is not supported.
    #[error("cannot decode {}: replace the file, or convert it to PNG", path.display())]
    Decode {
        /// The image.
        path: PathBuf,
        /// The decoder's own reason.
        source: image::ImageError,
    },

    /// The file claims a size that would fill the memory: refused before anything is allocated.
    #[error(
        "{} is {width}x{height} pixels, {bytes} bytes to decode, above the limit of {limit}: \
         shrink the image or leave it out",
        path.display()
    )]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Width in the file's header, pixels.
        width: u32,
        /// Height in the file's header, pixels.
        height: u32,
        /// Size once decoded, or all that decoding it could take.
        bytes: u64,
        /// The most that this may be.
        limit: u64,
    },

    /// The file is longer than any image that would be accepted.
    #[error(
        "{} is a file of {bytes} bytes, above the limit of {limit}: shrink the image or leave it out",
        path.display()
    )]
    FileTooLong {
        /// The image.
        path: PathBuf,
        /// Length of the file.
        bytes: u64,
        /// The most bytes that an image's file may have.
        limit: u64,
    },

    /// The whole data set does not fit in memory.
    #[error(
        "{count} images of {image_bytes} bytes each do not fit into the {} of memory that are free: give \
         --cache FILE to keep them in a file, from which training then reads, or use fewer or smaller images",
        bytes(*free_bytes)
    )]
    OutOfMemory {
        /// How many images there are.
        count: usize,
        /// Bytes of one image after resizing.
        image_bytes: usize,
        /// Memory that could be had, bytes.
        free_bytes: u64,
    },

    /// The wanted form of the images makes no sense.
    #[error("image {name} is {value}, but must be {wanted}")]
    Spec {
        /// Which setting.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The values allowed.
        wanted: &'static str,
    },

    /// The operating system refused; the source names the path.
    #[error("cannot read the data set")]
    Io(#[from] std::io::Error),
}

/// Tells apart "nothing there" from "could not look".
fn unreadable_note(unreadable: usize) -> String {
    match unreadable {
        0 => String::new(),
        n => format!(" ({n} entries could not be opened: check their permissions)"),
    }
}
