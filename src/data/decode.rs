//! Decodes one image file to a u8 array of the target size.
//!
//! Steps: open, turn upright, crop the centre to the target aspect ratio, drop or fill the transparency,
//! resize. A JPEG much larger than the target is decoded at a fraction of its size, see `shrunk`.
//!
//! Runs keep the rules by which they began ([`ImageRules`]). The first ones are in `rules_1`; the newest decode JPEG
//! in [`jpeg`](super::jpeg), read the orientation wherever a file has it ([`orientation`]), and mend alpha in BMP.
//!
//! # Memory
//!
//! All images being decoded use at most 3 GiB ([`WORKING_BYTES`]) together, whatever the files hold
//! and however many threads there are. Before its pixels are decoded, an image reserves its worst case
//! from that budget (`cost`: the decoder's own buffers, and the copies for turning and cropping),
//! waiting until it is free. A file above 1 GiB, an image above 1 GiB once decoded, and one that would
//! need more than 3 GiB are refused. Metadata may use 16 MiB; a PNG or GIF that needs more than its
//! pixels and that is refused, too. What [`jpeg`](super::jpeg) needs is known from the file's markers.
//!
//! Measured for the whole program, libtorch included: 1.0 GiB with one RGB image of 18,000x18,000,
//! whose crop is the whole image and needs no copy; 2.8 GiB at most with four of them and three other
//! large ones on 8 threads. The bound is on memory in use: a WebP file with a false length can make its
//! decoder reserve, without touching it, up to 4 GiB of addresses. The Huffman tables of a lossless
//! WebP, proportional to the length of the file, are not bounded.

use std::io;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageBuffer, ImageError, ImageFormat, Pixel, RgbImage};
use ndarray::Array3;

use super::budget::{DecodeBudget, Permit};
use super::entry::{Contents, Pixels, Place};
use super::error::DataError;
use super::resize;
use super::spec::ImageSpec;
use crate::config::{ImageRules, Resize};
use crate::report::{is_marked, is_marked_in};
use cost::file_copies;
pub(super) use flat::luma;
use flat::{Crop, flatten};
use job::{Job, Opened, Source};
use shrunk::ShrunkImage;

mod cost;
mod flat;
mod job;
mod orientation;
mod rules_1;
mod shrunk;

/// Maximum bytes of one decoded image: 1 GiB, a 357-megapixel RGB image.
///
/// A file of a few bytes can claim any size; without a limit it would fill the memory.
pub(crate) const MAX_DECODED_BYTES: u64 = 1 << 30;

/// Maximum length of an image file, bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;

/// Maximum memory for all images being decoded, bytes: see the module's documentation.
pub(crate) const WORKING_BYTES: u64 = 3 << 30;

/// Memory a decoder may use before the size of its image is known: metadata, tables, a few rows.
pub(crate) const HEADER_BYTES: u64 = 32 << 20;

/// The limit set in the decoder for that: half, as a buffer growing to this size was copied from a smaller one.
const HEADER_LIMIT_BYTES: u64 = HEADER_BYTES / 2;

static WORKING: DecodeBudget = DecodeBudget::new(WORKING_BYTES);

/// An image in the form wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// `[height, width, channels]` u8, RGB or grey.
    pub pixels: Array3<u8>,
    /// What its owner should know about the file, if anything; from [`ImageRules::V2`](crate::config::ImageRules) on.
    pub oddity: Option<Oddity>,
}

/// What is odd about a file that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// 16-bit values of which none reaches 4096, as of a camera with 12 bits: the image is nearly black.
    TwelveBitsIn16,
}

/// Reads one image as `spec` describes.
///
/// The format is detected from the file's content, not its name: PNG, JPEG, WebP, BMP and GIF (the
/// first frame of an animation), in any colour type. The EXIF orientation is applied, colour
/// profiles are not. 16-bit values keep their high byte, as in OpenCV. The crop is the largest
/// centred one of the target's aspect ratio.
///
/// With [`Resize::Fast`], a JPEG whose crop is at least eight times the target on both sides is decoded at 1/4 of its
/// size, and one of at least four times at 1/2, so that at least a factor of two is left to the resize. The result
/// differs from that of the full image by about one level on average, and most at sharp edges of colour
/// (docs/images.md).
///
/// Grey is `(2126 R + 7152 G + 722 B) / 10000`, rounded down: the weights of the `image` crate
/// (Rec. 709), not OpenCV's.
///
/// # Shapes
/// [`Decoded::pixels`] is `[height, width, channels]` u8, RGB or grey.
///
/// # Errors
/// [`DataError::Io`], [`DataError::Decode`], [`DataError::TooLarge`] (above 1 GiB
/// once decoded, or above 3 GiB while decoding), [`DataError::FileTooLong`] (above 1 GiB) and
/// [`DataError::Spec`]. A file that is damaged or cut short is an error; by the first rules
/// ([`ImageRules::V1`]) a JPEG is not, and the decoder fills in the missing part.
pub fn decode(path: &Path, spec: &ImageSpec) -> Result<Decoded, DataError> {
    decode_place(&Place::File(path.to_owned()), spec)
}

/// [`decode`] for an image wherever it is.
///
/// # Errors
/// As `decode`.
pub(super) fn decode_place(place: &Place, spec: &ImageSpec) -> Result<Decoded, DataError> {
    spec.check()?;
    let (image, permit) = open(place, Some(spec))?;
    Ok(fitted(image, permit, spec))
}

/// [`decode`] for an image file that is in memory already, which the caller answers for.
///
/// # Errors
/// As `decode`, with "image" for the path.
pub fn decode_bytes(bytes: Vec<u8>, spec: &ImageSpec) -> Result<Decoded, DataError> {
    spec.check()?;
    let contents = Contents::Memory(bytes);
    let job = Job {
        path: Path::new("image"),
        contents: &contents,
        held: 0,
        spec: Some(spec),
    };
    let mut permit = WORKING.take(HEADER_BYTES + file_copies(contents.bytes()));
    let mut opened = job.open()?;
    if !permit.try_resize(opened.cost) {
        // Waiting for more memory while holding some could deadlock.
        let cost = opened.cost;
        drop(opened);
        drop(permit);
        permit = WORKING.take(cost);
        opened = job.open_again(cost)?;
    }
    let image = pixels(job, opened)?;
    Ok(fitted(image, permit, spec))
}

/// Crops and resizes an image, whose permit ends here.
fn fitted(image: Image, permit: Permit<'static>, spec: &ImageSpec) -> Decoded {
    let (pixels, oddity) = match image {
        Image::Whole(image) => {
            let odd = spec.rules >= ImageRules::V2 && is_twelve_bits(&image);
            let oddity = odd.then_some(Oddity::TwelveBitsIn16);
            (fit(image, spec), oddity)
        }
        Image::Shrunk(image) => (image.fit(spec), None),
    };
    drop(permit);
    Decoded { pixels, oddity }
}

/// True for 16-bit values, transparency aside, of which none reaches 4096 and some are not 0.
fn is_twelve_bits(image: &DynamicImage) -> bool {
    fn brightest<P: Pixel<Subpixel = u16>>(image: &ImageBuffer<P, Vec<u16>>) -> u16 {
        let colours = usize::from(P::CHANNEL_COUNT) - usize::from(P::HAS_ALPHA);
        let pixels = image.pixels().map(|pixel| &pixel.channels()[..colours]);
        pixels.flatten().copied().max().unwrap_or(0)
    }
    let brightest = match image {
        DynamicImage::ImageLuma16(image) => brightest(image),
        DynamicImage::ImageLumaA16(image) => brightest(image),
        DynamicImage::ImageRgb16(image) => brightest(image),
        DynamicImage::ImageRgba16(image) => brightest(image),
        _ => return false,
    };
    (1..4096).contains(&brightest)
}

/// Crops and resizes an upright image.
fn fit(image: DynamicImage, spec: &ImageSpec) -> Array3<u8> {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let crop = Crop::centred(height, width, spec.height, spec.width);
    let pixels = flatten(&image, crop, spec);
    let resize = match spec.resize {
        Resize::Fast | Resize::Area => resize::area,
        Resize::Cv2 => resize::cv2_bilinear,
    };
    resize(pixels.view(), spec.height, spec.width)
}

/// Height and width of an upright image, in pixels.
///
/// # Errors
/// As [`decode`].
pub fn upright_size(path: &Path) -> Result<(usize, usize), DataError> {
    size_of(&Place::File(path.to_owned()))
}

/// [`upright_size`] of an image wherever it is.
///
/// # Errors
/// As [`decode`].
pub(super) fn size_of(place: &Place) -> Result<(usize, usize), DataError> {
    if let Place::Pixels(pixels) = place {
        return Ok((pixels.height as usize, pixels.width as usize));
    }
    match open(place, None)? {
        (Image::Whole(image), _) => Ok((image.height() as usize, image.width() as usize)),
        (Image::Shrunk(image), _) => Ok(image.full),
    }
}

/// True for an image file that this program made.
pub(super) fn is_ours(place: &Place) -> bool {
    match place {
        Place::File(path) => is_marked(path),
        Place::Member(member) => {
            let _permit = WORKING.take(place.held_bytes());
            member.bytes <= MAX_FILE_BYTES
                && (member.read()).is_ok_and(|bytes| is_marked_in(&mut io::Cursor::new(bytes)))
        }
        Place::Pixels(_) => false,
    }
}

/// The pixels of a file, upright.
enum Image {
    Whole(DynamicImage),
    Shrunk(ShrunkImage),
}

/// Height and width once upright.
fn upright((height, width): (usize, usize), orientation: Orientation) -> (usize, usize) {
    match turns(orientation) {
        true => (width, height),
        false => (height, width),
    }
}

/// True if turning upright makes rows columns.
fn turns(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(
        orientation,
        Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH
    )
}

/// Decodes the file and turns it upright.
///
/// The permit covers the image, and [`decode`]'s work on it for `spec`, until it is dropped.
fn open(place: &Place, spec: Option<&ImageSpec>) -> Result<(Image, Permit<'static>), DataError> {
    if let Place::Pixels(pixels) = place {
        return open_pixels(pixels);
    }
    let path = place.file();
    let failed = |error| DataError::Decode {
        path: path.to_owned(),
        source: ImageError::IoError(error),
    };
    // Opening something other than a file (a pipe) can wait for ever.
    let bytes = match place.bytes() {
        Err(error) if error.kind() == io::ErrorKind::Other => return Err(failed(error)),
        bytes => bytes?,
    };
    let too_long = |bytes| DataError::FileTooLong {
        path: path.to_owned(),
        bytes,
        limit: MAX_FILE_BYTES,
    };
    if bytes > MAX_FILE_BYTES {
        return Err(too_long(bytes));
    }
    let held = place.held_bytes();
    let mut wanted = None;
    loop {
        let mut permit = WORKING.take(wanted.unwrap_or(HEADER_BYTES + held + file_copies(bytes)));
        let contents = match place {
            Place::File(_) => place.contents()?,
            _ => place.contents().map_err(failed)?,
        };
        if contents.bytes() > MAX_FILE_BYTES {
            return Err(too_long(contents.bytes()));
        }
        let job = Job {
            path,
            contents: &contents,
            held,
            spec,
        };
        let opened = match wanted {
            None => job.open()?,
            Some(cost) => job.open_again(cost)?,
        };
        if wanted.is_some() || permit.try_resize(opened.cost) {
            return Ok((pixels(job, opened)?, permit));
        }
        // Waiting for more memory while holding some could deadlock: release it, and begin again.
        wanted = Some(opened.cost);
    }
}

/// Pixels without a header, and a permit for them and the work on them.
fn open_pixels(pixels: &Pixels) -> Result<(Image, Permit<'static>), DataError> {
    // As read, in another order, and cropped.
    let permit = WORKING.take(3 * pixels.bytes() as u64);
    let image = pixels.read().map_err(|error| DataError::Decode {
        path: pixels.archive.path().to_owned(),
        source: ImageError::IoError(error),
    })?;
    Ok((Image::Whole(image), permit))
}

/// Decodes the pixels and turns them upright.
fn pixels(job: Job, opened: Opened) -> Result<Image, DataError> {
    let Opened {
        source,
        size,
        orientation,
        cost,
        factor,
    } = opened;
    match (source, factor) {
        (Source::Jpeg(jpeg), _) => {
            let samples = jpeg.decode(factor.unwrap_or(1));
            let samples = samples.map_err(|reason| job.bad_jpeg(reason))?;
            let image = match factor {
                Some(factor) => {
                    ShrunkImage::new(samples, size, factor, orientation).map(Image::Shrunk)
                }
                None => whole(samples, orientation).map(Image::Whole),
            };
            image.ok_or_else(|| job.bad_jpeg("no pixels".to_owned()))
        }
        (Source::Other(decoder, _), Some(factor)) => {
            // The decoder holds the file.
            drop(decoder);
            if let Some(image) = rules_1::shrink(job.contents, size, factor, orientation) {
                return Ok(Image::Shrunk(image));
            }
            let factor = None;
            pixels(
                job,
                Opened {
                    factor,
                    ..job.open_again(cost)?
                },
            )
        }
        (Source::Other(decoder, format), None) => {
            let mut image = DynamicImage::from_decoder(decoder).map_err(|e| job.failed(e))?;
            if size.0 == 0 || size.1 == 0 {
                let empty = io::Error::other(format!("the image is {}x{} pixels", size.1, size.0));
                return Err(job.failed(ImageError::IoError(empty)));
            }
            if format == Some(ImageFormat::Bmp) && job.rules() >= ImageRules::V2 {
                drop_unused_alpha(&mut image);
            }
            image.apply_orientation(orientation);
            Ok(Image::Whole(image))
        }
    }
}

/// Grey or RGB samples `[height, width, C]` as an upright image, in the same memory.
fn whole(samples: Array3<u8>, orientation: Orientation) -> Option<DynamicImage> {
    let (height, width, channels) = samples.dim();
    let (height, width) = (height as u32, width as u32);
    let (samples, _) = samples.into_raw_vec_and_offset();
    let mut image = match channels {
        1 => GrayImage::from_raw(width, height, samples)?.into(),
        _ => DynamicImage::from(RgbImage::from_raw(width, height, samples)?),
    };
    image.apply_orientation(orientation);
    Some(image)
}

/// Makes a BMP opaque if nothing in it is: programs that know no transparency leave the fourth byte at 0, and viewers
/// then ignore it.
fn drop_unused_alpha(image: &mut DynamicImage) {
    if let DynamicImage::ImageRgba8(image) = image
        && image.pixels().all(|pixel| pixel[3] == 0)
    {
        image.pixels_mut().for_each(|pixel| pixel[3] = 255);
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
