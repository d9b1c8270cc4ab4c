//! IDX files, in which MNIST, Fashion-MNIST and EMNIST come: images in one file, their labels in another.
//!
//! A file is two zeros, the type of its values (8: uint8), the number of dimensions, each dimension as a big-endian
//! u32, and the values.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::records::{self, Records};
use super::{Wanted, bad, files_named, read_maybe_packed};
use crate::data::archive::{Archive, Packed};
use crate::data::entry::{MAX_DEFLATE_RATIO, PixelOrder};
use crate::data::error::DataError;
use crate::data::listing::Listing;

/// The type of values that images and labels have.
const UINT8: u8 = 8;

/// Names of the types of values.
const TYPES: [(u8, &str); 6] = [
    (UINT8, "uint8"),
    (9, "int8"),
    (0x0b, "int16"),
    (0x0c, "int32"),
    (0x0d, "float32"),
    (0x0e, "float64"),
];

/// The beginning of a file.
struct Header {
    kind: &'static str,
    dims: Vec<u64>,
    /// Bytes before the values.
    bytes: u64,
}

impl Header {
    /// `None` for the first bytes of another kind of file.
    fn parse(head: &[u8]) -> Option<Header> {
        let [0, 0, kind, count, rest @ ..] = head else {
            return None;
        };
        let (_, kind) = TYPES.iter().find(|(number, _)| number == kind)?;
        let count = usize::from(*count);
        let (dims, _) = rest.as_chunks::<4>();
        let dims = dims.get(..count).filter(|dims| !dims.is_empty())?;
        let dim = |bytes: &[u8; 4]| u64::from(u32::from_be_bytes(*bytes));
        Some(Header {
            kind,
            dims: dims.iter().map(dim).collect(),
            bytes: 4 + 4 * count as u64,
        })
    }

    /// For example `uint8 [60000, 28, 28]`.
    fn said(&self) -> String {
        format!("{} {:?}", self.kind, self.dims)
    }

    fn is_uint8(&self) -> bool {
        self.kind == TYPES[0].1
    }
}

/// True for the first bytes of such a file.
pub(super) fn is_idx(head: &[u8]) -> bool {
    Header::parse(head).is_some()
}

/// The images of a file that begins with `head`, and the labels of the one beside it.
///
/// `packed`: length of the file, if gzip packed it.
///
/// # Errors
/// Values that are no images, a file that is too short or too long, labels of another number.
pub(super) fn list(
    path: &Path,
    head: &[u8],
    packed: Option<u64>,
    wanted: Wanted,
) -> Result<Listing, DataError> {
    let header = Header::parse(head).ok_or_else(|| bad(path, "not an IDX file"))?;
    let (count, height, width, order) = match header.dims[..] {
        [n, h, w] => (n, h, w, PixelOrder::Grey),
        [n, h, w, 1] => (n, h, w, PixelOrder::Grey),
        [n, h, w, 3] => (n, h, w, PixelOrder::Rgb),
        _ => return Err(no_images(path, &header)),
    };
    if !header.is_uint8() {
        return Err(no_images(path, &header));
    }
    let channels = if order == PixelOrder::Grey { 1 } else { 3 };
    let stride = height.saturating_mul(width).saturating_mul(channels);
    let whole = count.saturating_mul(stride).saturating_add(header.bytes);
    let archive = match packed {
        // Before memory is taken for as many names as it claims to hold images.
        Some(bytes) if whole / MAX_DEFLATE_RATIO > bytes => {
            return Err(bad(
                path,
                format!(
                    "its {} take {whole} bytes, more than gzip packs into {bytes}: cut short or forged",
                    header.said()
                ),
            ));
        }
        Some(_) => Archive::packed(path, Packed::Gzip(Some(whole)))?,
        None => Archive::plain(path)?,
    };
    let found = archive.stamp().bytes;
    if packed.is_none() && found != whole {
        let is = if found < whole {
            "cut short"
        } else {
            "damaged"
        };
        return Err(bad(
            path,
            format!(
                "it is {found} bytes long, and its {} take {whole}: {is}",
                header.said()
            ),
        ));
    }
    let records = Records {
        archive: Arc::new(archive),
        start: header.bytes,
        stride,
        count,
        height,
        width,
        order,
    };
    let mut listing = Listing {
        entries: records.entries(0, count)?,
        ..Listing::default()
    };
    if let Some(file) = labels_beside(path).filter(|_| wanted.labels) {
        let labels = labels(&file, count)?;
        records::label(&mut listing.entries, labels);
        listing.says(None);
    }
    Ok(listing)
}

/// The training images of a folder that holds such files; `None` if it holds none.
///
/// # Errors
/// Several of them, and those of [`list`].
pub(super) fn list_folder(dir: &Path, wanted: Wanted) -> Result<Option<Listing>, DataError> {
    let mut files = files_named(dir, |name| name.contains("train-images"))?;
    // The same file, unpacked beside the packed one.
    let all = files.clone();
    files.retain(|file| {
        file.extension().is_none_or(|ending| ending != "gz")
            || !all.contains(&file.with_extension(""))
    });
    match &files[..] {
        [] => Ok(None),
        [file] => super::list_file(file, wanted).map(Some),
        [first, second, ..] => Err(bad(
            dir,
            format!(
                "it holds several sets of images, {} and {}: name one of the files",
                first.display(),
                second.display()
            ),
        )),
    }
}

/// The file of labels that belongs to one of images by the usual names, packed or not.
fn labels_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    if labels == name {
        return None;
    }
    let other = match labels.strip_suffix(".gz") {
        Some(unpacked) => unpacked.to_owned(),
        None => format!("{labels}.gz"),
    };
    let beside = [labels, other].map(|name| path.with_file_name(name));
    beside.into_iter().find(|path| path.is_file())
}

/// Reads `count` labels.
fn labels(path: &Path, count: u64) -> Result<Vec<u8>, DataError> {
    // A byte more shows that there are more.
    let most = count.saturating_add(9);
    let bytes = read_maybe_packed(path, most).map_err(|error| bad(path, error))?;
    let header = Header::parse(&bytes).filter(|header| header.is_uint8() && header.dims.len() == 1);
    let header =
        header.ok_or_else(|| bad(path, "labels in an IDX file of uint8 [N] are wanted"))?;
    if header.dims != [count] {
        return Err(bad(
            path,
            format!("it holds {} labels for {count} images", header.dims[0]),
        ));
    }
    let labels = &bytes[header.bytes as usize..];
    match labels.len() as u64 == count {
        true => Ok(labels.to_vec()),
        false => Err(bad(
            path,
            format!("{count} labels are announced and others are there: cut short or damaged"),
        )),
    }
}

fn no_images(path: &Path, header: &Header) -> DataError {
    let labels = match header.dims.len() {
        1 => ": these are labels, and the file of the images is wanted",
        _ => "",
    };
    bad(
        path,
        format!(
            "it holds {}, and uint8 [N, H, W] or [N, H, W, 3] is wanted{labels}",
            header.said()
        ),
    )
}
