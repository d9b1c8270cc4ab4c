//! Decodes one image file to a u8 array of the target size.
//!
//! Steps: open, turn upright, crop the centre to the target aspect ratio, drop or fill the transparency,
//! resize. A JPEG much larger than the target is decoded at a fraction of its size, see `shrunk` and
//! [`jpeg`](super::jpeg); if that is impossible or fails for whatever reason, it is decoded in full.
//!
//! # Memory
//!
//! All images being decoded use at most 3 GiB ([`WORKING_BYTES`]) together, whatever the files hold
//! and however many threads there are. Before its pixels are decoded, an image reserves its worst case
//! from that budget ([`cost`]: the decoder's own buffers, and the copies for turning and cropping),
//! waiting until it is free. A file above 1 GiB, an image above 1 GiB once decoded, and one that would
//! need more than 3 GiB are refused. Metadata may use 16 MiB; a PNG or GIF that needs more than its
//! pixels and that is refused, too.
//!
//! Measured for the whole program, libtorch included: 1.0 GiB with one RGB image of 18,000x18,000,
//! whose crop is the whole image and needs no copy; 2.8 GiB at most with four of them and three other
//! large ones on 8 threads. The bound is on memory in use: a WebP file with a false length can make its
//! decoder reserve, without touching it, up to 4 GiB of addresses. The Huffman tables of a lossless
//! WebP, proportional to the length of the file, are not bounded.

use std::io::{self, BufReader};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader};
use image::{Limits, Pixel, RgbImage};
use ndarray::{Array3, ArrayView2, ArrayView3, CowArray, Ix3, s};

use super::budget::{Capped, DecodeBudget, Permit};
use super::error::DataError;
use super::resize;
use super::spec::ImageSpec;
use crate::config::{Background, Resize};
use shrunk::{ShrunkImage, shrink, shrink_factor};

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
/// With [`Resize::Fast`], a JPEG whose crop is at least eight times the target on both sides is decoded at 1/4
/// of its size, so that at least a factor of two is left to the resize. The result differs from that of the full
/// image by about one level on average, and most at sharp edges of colour (docs/images.md).
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
/// [`DataError::Spec`]. A JPEG that was cut short is not an error: the
/// decoder fills in the missing part.
pub fn decode(path: &Path, spec: &ImageSpec) -> Result<Decoded, DataError> {
    spec.check()?;
    let (image, permit) = open(path, Some(spec))?;
    let resized = match image {
        Image::Whole(image) => fit(image, spec),
        Image::Shrunk(image) => image.fit(spec),
    };
    drop(permit);
    Ok(Decoded {
        pixels: resized,
        oddity: None,
    })
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
    match open(path, None)? {
        (Image::Whole(image), _) => Ok((image.height() as usize, image.width() as usize)),
        (Image::Shrunk(image), _) => Ok(image.full),
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

/// An image file opened up to its header, pixels not yet decoded.
struct Opened<D> {
    decoder: D,
    orientation: Orientation,
    /// Memory for all work on the image.
    cost: u64,
    /// See [`shrink_factor`]; JPEG only.
    factor: Option<usize>,
}

impl<D: ImageDecoder> Opened<D> {
    /// Height and width in the file.
    fn size(&self) -> (usize, usize) {
        let (width, height) = self.decoder.dimensions();
        (height as usize, width as usize)
    }
}

/// Decodes the file and turns it upright.
///
/// The permit covers the image, and [`decode`]'s work on it for `spec`, until it is dropped.
fn open(path: &Path, spec: Option<&ImageSpec>) -> Result<(Image, Permit<'static>), DataError> {
    let failed = |source| DataError::Decode {
        path: path.to_owned(),
        source,
    };
    // Opening something other than a file (a pipe) can wait for ever.
    if !fs_err::metadata(path)?.is_file() {
        return Err(failed(ImageError::IoError(io::Error::other("not a file"))));
    }
    let file = fs_err::File::open(path)?;
    let file_bytes = file.metadata()?.len();
    if file_bytes > MAX_FILE_BYTES {
        return Err(DataError::FileTooLong {
            path: path.to_owned(),
            bytes: file_bytes,
            limit: MAX_FILE_BYTES,
        });
    }
    let mut permit = WORKING.take(HEADER_BYTES + file_copies(file_bytes));
    let read_again = |cost| {
        let opened = read_header(path, &file, file_bytes, spec)?;
        if opened.cost > cost {
            let changed = io::Error::other("the file changed while it was read");
            return Err(failed(ImageError::IoError(changed)));
        }
        Ok(opened)
    };
    let mut opened = read_header(path, &file, file_bytes, spec)?;
    if !permit.try_resize(opened.cost) {
        // Waiting for more memory while holding some could deadlock: release it, and begin again.
        let cost = opened.cost;
        drop((opened, permit));
        permit = WORKING.take(cost);
        opened = read_again(cost)?;
    }
    if let Some(factor) = opened.factor {
        let (size, orientation, cost) = (opened.size(), opened.orientation, opened.cost);
        // The decoder holds the file.
        drop(opened);
        if let Some(image) = shrink(&file, file_bytes, size, factor, orientation) {
            return Ok((Image::Shrunk(image), permit));
        }
        opened = read_again(cost)?;
    }
    let (width, height) = opened.decoder.dimensions();
    let mut image = DynamicImage::from_decoder(opened.decoder).map_err(failed)?;
    if image.width() == 0 || image.height() == 0 {
        let empty = io::Error::other(format!("the image is {width}x{height} pixels"));
        return Err(failed(ImageError::IoError(empty)));
    }
    image.apply_orientation(opened.orientation);
    Ok((Image::Whole(image), permit))
}

/// Reads the header, up to the pixels; only the first `file_bytes` of the file count.
fn read_header<'a>(
    path: &Path,
    file: &'a fs_err::File,
    file_bytes: u64,
    spec: Option<&ImageSpec>,
) -> Result<Opened<impl ImageDecoder + use<'a>>, DataError> {
    let failed = |source| DataError::Decode {
        path: path.to_owned(),
        source,
    };
    let mut source = Capped::new(file, file_bytes);
    io::Seek::rewind(&mut source)?;
    let mut reader = ImageReader::new(BufReader::new(source)).with_guessed_format()?;
    reader.limits(limits(HEADER_LIMIT_BYTES));
    let format = reader.format();
    let mut decoder = reader.into_decoder().map_err(failed)?;
    // The decoders' own limits do not count the buffer that we read into.
    let decoded = decoder.total_bytes();
    // Damaged EXIF data must not lose the image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = decoder.dimensions();
    let too_large = |bytes, limit| DataError::TooLarge {
        path: path.to_owned(),
        width,
        height,
        bytes,
        limit,
    };
    if decoded > MAX_DECODED_BYTES {
        return Err(too_large(decoded, MAX_DECODED_BYTES));
    }
    let cost = cost(
        format,
        file_bytes,
        decoded,
        (width, height),
        orientation,
        spec,
    );
    if cost > WORKING.total() {
        return Err(too_large(cost, WORKING.total()));
    }
    decoder
        .set_limits(limits(decoded + HEADER_LIMIT_BYTES))
        .map_err(failed)?;
    let factor = spec.filter(|_| format == Some(ImageFormat::Jpeg));
    let factor = factor.and_then(|spec| {
        let (height, width) = upright((height as usize, width as usize), orientation);
        let crop = Crop::centred(height, width, spec.height, spec.width);
        shrink_factor(crop, spec)
    });
    Ok(Opened {
        decoder,
        orientation,
        cost,
        factor,
    })
}

fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(bytes);
    limits
}

/// Maximum memory for copies of the file: JPEG's decoder keeps all of it, and its metadata once more.
fn file_copies(file_bytes: u64) -> u64 {
    2 * file_bytes
}

/// Maximum memory for an image from file to crop, bytes.
///
/// `decoded` is the size of its pixels. A decoder holds, at worst and in multiples of that: PNG and BMP
/// the pixels; GIF a frame that does not fill its screen, and its indices; JPEG the coefficients of a
/// progressive CMYK file, four of two bytes for three (if shrunk, those of three colours and twice the shrunk
/// image); WebP an animation's canvas and frame with four channels each, its transparency in two steps,
/// and luma and chroma.
fn cost(
    format: Option<ImageFormat>,
    file_bytes: u64,
    decoded: u64,
    (width, height): (u32, u32),
    orientation: Orientation,
    spec: Option<&ImageSpec>,
) -> u64 {
    let (multiple, file) = match format {
        Some(ImageFormat::Png | ImageFormat::Bmp) => (1, 0),
        Some(ImageFormat::Gif) => (3, file_copies(file_bytes)),
        Some(ImageFormat::Jpeg) => (4, file_copies(file_bytes)),
        _ => (6, file_copies(file_bytes)),
    };
    let (height, width) = upright((height as usize, width as usize), orientation);
    let flat = spec.map_or(0, |spec| {
        let crop = Crop::centred(height, width, spec.height, spec.width);
        (crop.height * crop.width * spec.channels) as u64
    });
    let copy = flat.max(if turns(orientation) { decoded } else { 0 });
    HEADER_BYTES + (file + multiple * decoded).max(decoded + copy)
}

/// The crop: the part of an image that is kept, in pixels from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crop {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Crop {
    /// The largest centred part of `height` x `width` with the aspect ratio of `to_height` x `to_width`.
    ///
    /// With an odd remainder, the extra pixel is cut off before the crop, as in Keras-DDPM.
    fn centred(height: usize, width: usize, to_height: usize, to_width: usize) -> Self {
        let scaled = |side: usize, to: usize, from: usize| ((side * to + from / 2) / from).max(1);
        let fit_height = height.min(scaled(width, to_height, to_width));
        let fit_width = width.min(scaled(height, to_width, to_height));
        Self {
            top: (height - fit_height).div_ceil(2),
            left: (width - fit_width).div_ceil(2),
            height: fit_height,
            width: fit_width,
        }
    }
}

/// The cropped pixels as bytes without alpha: `[crop.height, crop.width, channels]`.
fn flatten<'a>(image: &'a DynamicImage, crop: Crop, spec: &ImageSpec) -> CowArray<'a, u8, Ix3> {
    let gathered = match image {
        DynamicImage::ImageRgb8(p) if spec.channels == 3 => return rows(p, crop),
        DynamicImage::ImageLuma8(p) => gather(p, crop, spec),
        DynamicImage::ImageLumaA8(p) => gather(p, crop, spec),
        DynamicImage::ImageRgb8(p) => gather(p, crop, spec),
        DynamicImage::ImageRgba8(p) => gather(p, crop, spec),
        DynamicImage::ImageLuma16(p) => gather(p, crop, spec),
        DynamicImage::ImageLumaA16(p) => gather(p, crop, spec),
        DynamicImage::ImageRgb16(p) => gather(p, crop, spec),
        DynamicImage::ImageRgba16(p) => gather(p, crop, spec),
        // Float images: the formats above cannot contain them.
        other => gather(&other.to_rgba8(), crop, spec),
    };
    gathered.into()
}

/// Samples of the crop, `[crop.height, crop.width, samples per pixel]`: a view, not a copy.
fn cropped<P: Pixel>(
    image: &ImageBuffer<P, Vec<P::Subpixel>>,
    crop: Crop,
) -> ArrayView3<'_, P::Subpixel> {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let shape = (height, width, usize::from(P::CHANNEL_COUNT));
    ArrayView3::from_shape(shape, image.as_raw())
        .expect("an image holds all of its pixels")
        .slice_move(s![
            crop.top..crop.top + crop.height,
            crop.left..crop.left + crop.width,
            ..
        ])
}

/// Crop of an image that already has the target's channels: copies only if it is narrower.
fn rows(image: &RgbImage, crop: Crop) -> CowArray<'_, u8, Ix3> {
    let pixels = cropped(image, crop);
    if pixels.is_standard_layout() {
        return pixels.into();
    }
    let mut out = Vec::with_capacity(pixels.len());
    for row in pixels.outer_iter() {
        out.extend_from_slice(in_a_row(&row));
    }
    resize::image_of(out, crop.height, crop.width).into()
}

/// Samples of a row of a [`cropped`] image.
fn in_a_row<'a, S>(row: &'a ArrayView2<'_, S>) -> &'a [S] {
    row.as_slice().expect("the samples of a row are contiguous")
}

/// Conversion of a sample to one byte.
trait HighByte: Copy {
    fn high_byte(self) -> u8;
}

impl HighByte for u8 {
    fn high_byte(self) -> u8 {
        self
    }
}

impl HighByte for u16 {
    fn high_byte(self) -> u8 {
        self.to_be_bytes()[0]
    }
}

fn gather<P>(image: &ImageBuffer<P, Vec<P::Subpixel>>, crop: Crop, spec: &ImageSpec) -> Array3<u8>
where
    P: Pixel<Subpixel: HighByte>,
{
    let mut out = Vec::with_capacity(crop.height * crop.width * spec.channels);
    for row in cropped(image, crop).outer_iter() {
        for pixel in in_a_row(&row).chunks_exact(usize::from(P::CHANNEL_COUNT)) {
            let rgb = opaque(pixel, spec.background);
            match spec.channels {
                1 => out.push(luma(rgb)),
                _ => out.extend(rgb),
            }
        }
    }
    resize::image_of(out, crop.height, crop.width)
}

/// One pixel of 1 to 4 samples (grey, grey + alpha, RGB, RGBA) as opaque RGB.
fn opaque<S: HighByte>(pixel: &[S], background: Background) -> [u8; 3] {
    let at = |i: usize| pixel[i].high_byte();
    let (rgb, alpha) = match pixel.len() {
        1 => ([at(0); 3], 255),
        2 => ([at(0); 3], at(1)),
        3 => ([at(0), at(1), at(2)], 255),
        _ => ([at(0), at(1), at(2)], at(3)),
    };
    match background {
        Background::Color(behind) if alpha < 255 => {
            let blend = |over: u8, under: u8| {
                let alpha = u32::from(alpha);
                ((u32::from(over) * alpha + u32::from(under) * (255 - alpha) + 127) / 255) as u8
            };
            std::array::from_fn(|i| blend(rgb[i], behind[i]))
        }
        _ => rgb,
    }
}

/// The brightness of a colour, Rec. 709 weights, rounded down: greys map to themselves.
pub(super) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((2126 * u32::from(r) + 7152 * u32::from(g) + 722 * u32::from(b)) / 10_000) as u8
}

#[cfg(test)]
mod tests;
