//! libjpeg, made strict: whatever it would patch over in a damaged file is an error.
//!
//! The library (mozjpeg, a branch of libjpeg-turbo) reports through callbacks. A fatal error must not return, so the
//! callback unwinds through the library's frames, which are compiled for that, up to [`decode_jpeg`]; a warning about
//! the compressed data is treated in the same way.

use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys as sys;

/// Decoded samples, row by row.
pub(crate) struct Samples {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// 1 (grey), 3 (RGB) or 4 (CMYK).
    pub(crate) channels: usize,
    pub(crate) bytes: Vec<u8>,
}

/// Decodes a JPEG at `eighths` / 8 of its size, sides rounded up; `eighths` is 1 to 8.
///
/// # Errors
/// libjpeg's message, for anything but a complete, undamaged image of 8 bits with 1, 3 or 4 components. A missing
/// end marker is passed over: whether all scans are there, the caller must know.
pub(crate) fn decode_jpeg(file: &[u8], eighths: u8) -> Result<Samples, String> {
    // On an error, everything that the closure holds is dropped, and nothing of it is seen again.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let failed = |error: std::io::Error| error.to_string();
        let mut decoder = Decompress::with_err(strict())
            .from_mem(file)
            .map_err(failed)?;
        decoder.scale(eighths);
        let (space, channels) = match decoder.color_space() {
            ColorSpace::JCS_GRAYSCALE => (ColorSpace::JCS_GRAYSCALE, 1),
            ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => (ColorSpace::JCS_CMYK, 4),
            _ => (ColorSpace::JCS_RGB, 3),
        };
        let mut decoder = decoder.to_colorspace(space).map_err(failed)?;
        let (width, height) = (decoder.width(), decoder.height());
        let bytes = decoder.read_scanlines().map_err(failed)?;
        // Reads on to the end of the image, so that what is left over before it is noticed.
        decoder.finish().map_err(failed)?;
        Ok(Samples {
            width,
            height,
            channels,
            bytes,
        })
    }));
    outcome.unwrap_or_else(|payload| match payload.downcast::<Complaint>() {
        Ok(complaint) => Err(complaint.0),
        Err(other) => resume_unwind(other),
    })
}

/// What is thrown through libjpeg.
struct Complaint(String);

/// libjpeg's own way of handling errors, with our two callbacks.
fn strict() -> sys::jpeg_error_mgr {
    // SAFETY: plain C data (numbers and nullable pointers), valid when zero, and filled in by the library.
    let mut handler = unsafe {
        let mut handler: sys::jpeg_error_mgr = std::mem::zeroed();
        sys::jpeg_std_error(&mut handler);
        handler
    };
    handler.error_exit = Some(fatal);
    handler.emit_message = Some(message);
    handler
}

extern "C-unwind" fn fatal(info: &mut sys::jpeg_common_struct) {
    complain(info);
}

/// A negative level is a warning, others are a trace.
extern "C-unwind" fn message(info: &mut sys::jpeg_common_struct, level: c_int) {
    // Of markers, not of compressed data: the file ends without the end marker, which the library then makes up (data
    // missing before it has a warning of its own); values for which it has defaults.
    let harmless = [
        sys::JWRN_JPEG_EOF,
        sys::JWRN_ADOBE_XFORM,
        sys::JWRN_JFIF_MAJOR,
        sys::JWRN_NOT_SEQUENTIAL,
        sys::JWRN_BOGUS_ICC,
    ];
    // SAFETY: the library sets the pointer to the handler that decompression was begun with.
    let code = unsafe { (*info.err).msg_code };
    if level < 0 && !harmless.iter().any(|known| *known as c_int == code) {
        complain(info);
    }
}

/// `format_message` of a handler.
type Format<Buffer> = unsafe extern "C-unwind" fn(&mut sys::jpeg_common_struct, Buffer);

/// Throws the message that the library has prepared. `resume_unwind` does not call the panic hook.
fn complain(info: &mut sys::jpeg_common_struct) -> ! {
    let mut text = [0u8; 80];
    // SAFETY: as above; `format_message` is `jpeg_std_error`'s, and writes a NUL-terminated text of at most 80 bytes
    // to the buffer, which its binding declares as read only. The buffer is passed as the library's own type of
    // pointer to memory that is mutable.
    unsafe {
        if let Some(format) = (*info.err).format_message {
            std::mem::transmute::<Format<&[u8; 80]>, Format<&mut [u8; 80]>>(format)(
                info, &mut text,
            );
        }
    }
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    resume_unwind(Box::new(Complaint(
        String::from_utf8_lossy(text).into_owned(),
    )))
}
