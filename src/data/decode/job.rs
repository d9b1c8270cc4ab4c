//! Opens an image file: its header, up to the pixels, and the memory that they will take.

use std::io::{self, BufReader};
use std::path::Path;

use image::error::DecodingError;
use image::metadata::Orientation;
use image::{ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::cost::Work;
use super::orientation::Metadata;
use super::shrunk::shrink_factor;
use super::{HEADER_LIMIT_BYTES, MAX_DECODED_BYTES, WORKING};
use crate::config::ImageRules;
use crate::data::entry::{Contents, ContentsReader};
use crate::data::error::DataError;
use crate::data::jpeg::Jpeg;
use crate::data::spec::ImageSpec;

/// An image file opened up to its header, pixels not yet decoded.
pub(super) struct Opened<'a> {
    pub(super) source: Source<'a>,
    /// Height and width in the file.
    pub(super) size: (usize, usize),
    pub(super) orientation: Orientation,
    /// Memory for all work on the image.
    pub(super) cost: u64,
    /// See [`shrink_factor`]; JPEG only.
    pub(super) factor: Option<usize>,
}

pub(super) enum Source<'a> {
    Jpeg(Jpeg),
    Other(Box<dyn ImageDecoder + 'a>, Option<ImageFormat>),
}

/// A file to read, and what is wanted of it.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) path: &'a Path,
    pub(super) contents: &'a Contents,
    /// Memory that the contents take, bytes.
    pub(super) held: u64,
    pub(super) spec: Option<&'a ImageSpec>,
}

impl<'a> Job<'a> {
    pub(super) fn rules(&self) -> ImageRules {
        self.spec.map_or(ImageRules::LATEST, |spec| spec.rules)
    }

    pub(super) fn failed(&self, source: ImageError) -> DataError {
        DataError::Decode {
            path: self.path.to_owned(),
            source,
        }
    }

    pub(super) fn bad_jpeg(&self, reason: String) -> DataError {
        let error = DecodingError::new(ImageFormat::Jpeg.into(), reason);
        self.failed(ImageError::Decoding(error))
    }

    /// The file from its start.
    fn reader(&self) -> io::Result<BufReader<ContentsReader<'a>>> {
        self.contents.reader()
    }

    /// Reads the header again, once memory for it is there.
    pub(super) fn open_again(&self, cost: u64) -> Result<Opened<'a>, DataError> {
        let opened = self.open()?;
        if opened.cost > cost {
            let changed = io::Error::other("the file changed while it was read");
            return Err(self.failed(ImageError::IoError(changed)));
        }
        Ok(opened)
    }

    /// Reads the header, up to the pixels.
    pub(super) fn open(&self) -> Result<Opened<'a>, DataError> {
        let format = ImageReader::new(self.reader()?)
            .with_guessed_format()?
            .format();
        if format == Some(ImageFormat::Jpeg) && self.rules() >= ImageRules::V2 {
            return self.open_jpeg();
        }
        // Before the decoder begins, which reads from the same file.
        let of_png = (format == Some(ImageFormat::Png)).then(|| self.reader());
        let of_png = of_png.transpose()?.map(Metadata::of_png);
        let mut reader = ImageReader::new(self.reader()?);
        if let Some(format) = format {
            reader.set_format(format);
        }
        reader.limits(limits(HEADER_LIMIT_BYTES));
        let mut decoder = reader.into_decoder().map_err(|e| self.failed(e))?;
        // Damaged metadata must not lose the image.
        let orientation = match (self.rules(), of_png) {
            (ImageRules::V1, _) => decoder.orientation().unwrap_or(Orientation::NoTransforms),
            (_, Some(found)) => found.orientation(),
            (_, None) => Metadata::of_other(&mut decoder).orientation(),
        };
        // The decoders' own limits do not count the buffer that we read into.
        let decoded = decoder.total_bytes();
        let (width, height) = decoder.dimensions();
        let size = (height as usize, width as usize);
        let work = Work::new(size, decoded, orientation, self.spec);
        let cost = self.held + work.cost(format, self.contents.bytes());
        self.check_size(size, decoded, cost)?;
        decoder
            .set_limits(limits(decoded + HEADER_LIMIT_BYTES))
            .map_err(|e| self.failed(e))?;
        let factor = self.spec.filter(|_| format == Some(ImageFormat::Jpeg));
        Ok(Opened {
            source: Source::Other(Box::new(decoder), format),
            size,
            orientation,
            cost,
            factor: factor.and_then(|spec| shrink_factor(work.crop(spec), spec)),
        })
    }

    fn open_jpeg(&self) -> Result<Opened<'a>, DataError> {
        let jpeg = Jpeg::read(self.reader()?).map_err(|reason| self.bad_jpeg(reason))?;
        let size = (jpeg.structure.height, jpeg.structure.width);
        let colours = jpeg.structure.channels.min(3);
        let decoded = (size.0 * size.1 * colours) as u64;
        let orientation = Metadata::of_jpeg(jpeg.metadata()).orientation();
        let work = Work::new(size, decoded, orientation, self.spec);
        let spec = self.spec.filter(|_| jpeg.structure.can_shrink);
        let factor = spec.and_then(|spec| shrink_factor(work.crop(spec), spec));
        let cost = self.held + work.cost_of_jpeg(&jpeg, factor);
        self.check_size(size, decoded, cost)?;
        Ok(Opened {
            source: Source::Jpeg(jpeg),
            size,
            orientation,
            cost,
            factor,
        })
    }

    fn check_size(&self, size: (usize, usize), decoded: u64, cost: u64) -> Result<(), DataError> {
        let too_large = |bytes, limit| DataError::TooLarge {
            path: self.path.to_owned(),
            width: size.1 as u32,
            height: size.0 as u32,
            bytes,
            limit,
        };
        if decoded > MAX_DECODED_BYTES {
            return Err(too_large(decoded, MAX_DECODED_BYTES));
        }
        if cost > WORKING.total() {
            return Err(too_large(cost, WORKING.total()));
        }
        Ok(())
    }
}

fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(bytes);
    limits
}
