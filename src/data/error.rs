//! Errors between a folder of files and a buffer of pixels.

use std::path::PathBuf;

use super::passed_over::PassedOver;
use crate::report::bytes;
use crate::text;

/// A data set that cannot be used, or an image that cannot be read.
///
/// A few bad images are no error: loading a folder skips and lists them.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The path of the data set does not exist.
    #[error("there is no folder or file {}: give what holds the images", dir.display())]
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

    /// The path of the data set is a file of no kind that holds images.
    #[error(
        "{} is neither a folder of images nor a file that holds some: give a folder, a .zip or .tar archive, an .npz \
         or IDX file, or one of CIFAR's",
        path.display()
    )]
    NoSource {
        /// The path as given.
        path: PathBuf,
    },

    /// An archive or another file of images that cannot be used, or one with their classes.
    #[error("cannot use {}: {reason}", text::path(path))]
    BadSource {
        /// The file, or the image in it.
        path: PathBuf,
        /// What is wrong, and what was wanted.
        reason: String,
    },

    /// Classes of images that cannot be used.
    #[error("`data.labels` = {labels}: {reason}")]
    Labels {
        /// The setting.
        labels: String,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// The folder exists, but no file in it or below it looks like an image.
    #[error(
        "no images in {} or below it: looked for files ending in .{}{}{}",
        dir.display(),
        extensions.join(", ."),
        found_note(passed_over, *unreadable),
        unreadable_note(*unreadable)
    )]
    NoImages {
        /// The folder searched.
        dir: PathBuf,
        /// The extensions looked for, lower case, without the dot.
        extensions: &'static [&'static str],
        /// Number of entries below the folder that could not be read, and so were not searched.
        unreadable: usize,
        /// What is there instead.
        passed_over: Box<PassedOver>,
    },

    /// Not one image could be read; the reasons usually name the cause.
    #[error(
        "none of the {count} images in {} could be read, for example {}",
        dir.display(),
        reasons.join("; ")
    )]
    NoneReadable {
        /// The folder searched.
        dir: PathBuf,
        /// Number of files that looked like images.
        count: usize,
        /// The first few failures, each as `path: reason`.
        reasons: Vec<String>,
    },

    /// Images that are to be taken as they are have more than one size.
    #[error(
        "images of more than one size: {} is {}x{} pixels and {} is {}x{} (width x height); name a size for all \
         (`images.size`)",
        first.display(), first_size.1, first_size.0, other.display(), other_size.1, other_size.0
    )]
    MixedSizes {
        /// The first image.
        first: PathBuf,
        /// Its height and width in pixels.
        first_size: (usize, usize),
        /// The first of another size.
        other: PathBuf,
        /// Its height and width in pixels.
        other_size: (usize, usize),
    },

    /// All images are held out.
    #[error(
        "`data.hold_out` = {hold_out}: none of the {count} images is left to train on: hold out fewer, or add images"
    )]
    AllHeldOut {
        /// The setting.
        hold_out: String,
        /// Number of images.
        count: usize,
    },

    /// [`load_until`](super::load_until) was asked to stop.
    #[error("stopped while the images were decoded")]
    Stopped,

    /// The file could be opened, but not decoded: damaged, or of an unsupported kind.
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
        /// Bytes once decoded, or the most that decoding could need.
        bytes: u64,
        /// The limit, bytes.
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
        /// Length of the file, bytes.
        bytes: u64,
        /// The limit, bytes.
        limit: u64,
    },

    /// The whole data set does not fit in memory.
    #[error(
        "{count} images of {image_bytes} bytes each do not fit into the {} of free memory: use fewer or \
         smaller images; train and replay can keep them in a file with `start.cache` = FILE",
        bytes(*free_bytes)
    )]
    OutOfMemory {
        /// Number of images.
        count: usize,
        /// Bytes of one image after resizing.
        image_bytes: usize,
        /// Free memory, bytes.
        free_bytes: u64,
    },

    /// A setting of the target images is out of range.
    #[error("image {name} is {value}, but must be {wanted}")]
    Spec {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The values allowed.
        wanted: &'static str,
    },

    /// The operating system returned an error; the source names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What is there instead of images.
fn found_note(passed_over: &PassedOver, unreadable: usize) -> String {
    match passed_over.in_short() {
        found if passed_over.has_archives() => {
            format!("; found {found}: an archive is read where it is named itself, not its folder")
        }
        found if !found.is_empty() => format!("; found {found}"),
        _ if unreadable > 0 => String::new(),
        _ => "; there are no files".to_owned(),
    }
}

/// Note that tells "nothing there" from "could not look".
fn unreadable_note(unreadable: usize) -> String {
    match unreadable {
        0 => String::new(),
        n => format!(" ({n} entries could not be opened: check their permissions)"),
    }
}
