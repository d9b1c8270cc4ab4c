//! Object headers: the messages that say what a group or dataset is.

use anyhow::{Context, Result, bail, ensure};

use super::source::{Fields, Source};
use crate::formats::host_tensor::Dtype;

/// Most dimensions a dataset may have in HDF5.
const MAX_RANK: u8 = 32;
/// Flag of a message that is stored elsewhere.
const SHARED: u8 = 2;

/// The parts of an object header that weights need.
#[derive(Debug, Default)]
pub(super) struct Object {
    /// B-tree and name heap: it is a group.
    pub(super) group: Option<(u64, u64)>,
    /// Element type.
    pub(super) dtype: Option<Dtype>,
    /// Length of each dimension.
    pub(super) shape: Option<Vec<usize>>,
    /// Place of its data, and number of bytes.
    pub(super) data: Option<(u64, u64)>,
    /// The attribute `layer_names`: Keras's layers in the model's order.
    pub(super) layer_names: Vec<String>,
}

/// Reads the header at `at`, with its continuations.
pub(super) fn read(source: &mut Source, at: u64) -> Result<Object> {
    let prefix = source.structure(at, 16)?;
    let mut fields = Fields(&prefix);
    let version = fields.u8()?;
    ensure!(
        version == 1,
        "object header of version {version}, want 1, as h5py writes by default; \
         save the weights again with Keras's save_weights"
    );
    fields.skip(1)?;
    let mut messages_left = fields.u16()?;
    fields.skip(4)?;
    let mut blocks = vec![(at.saturating_add(16), u64::from(fields.u32()?))];

    let mut object = Object::default();
    while let Some((start, len)) = blocks.pop() {
        let block = source.structure(start, len)?;
        let mut fields = Fields(&block);
        while messages_left > 0 && !fields.is_empty() {
            messages_left -= 1;
            let kind = fields.u16()?;
            let size = fields.u16()?;
            let flags = fields.u8()?;
            fields.skip(3)?;
            let body = Fields(fields.take(usize::from(size))?);
            match kind {
                0x10 => blocks.push(pair(body)?),
                _ => object
                    .take_message(kind, flags, body)
                    .with_context(|| format!("message of kind {kind}"))?,
            }
        }
    }
    ensure!(
        messages_left == 0,
        "an object header lacks {messages_left} of its messages; the file is damaged"
    );
    Ok(object)
}

/// An address and a length, or two addresses.
fn pair(mut body: Fields<'_>) -> Result<(u64, u64)> {
    Ok((body.u64()?, body.u64()?))
}

impl Object {
    fn take_message(&mut self, kind: u16, flags: u8, body: Fields<'_>) -> Result<()> {
        if matches!(kind, 0x01 | 0x03 | 0x08 | 0x11) && flags & SHARED != 0 {
            bail!("it is shared between objects, which Keras never writes");
        }
        match kind {
            0x01 => self.shape = Some(shape(body)?),
            0x03 => self.dtype = Some(dtype(body)?),
            0x08 => self.data = Some(contiguous(body)?),
            0x0c => self.take_attribute(body)?,
            0x11 => self.group = Some(pair(body)?),
            0x02 | 0x06 => bail!(
                "a group in HDF5's newer layout, want the older one, which h5py writes by default"
            ),
            0x07 => bail!("its data are in another file; want one file with all weights"),
            _ => {}
        }
        Ok(())
    }

    /// Keeps `layer_names` if it is an array of fixed-length strings; other attributes do not
    /// matter.
    fn take_attribute(&mut self, mut body: Fields<'_>) -> Result<()> {
        let version = body.u8()?;
        if version != 1 {
            return Ok(());
        }
        body.skip(1)?;
        let [name, dtype, shape] = [body.u16()?, body.u16()?, body.u16()?]
            .map(|size| usize::from(size).next_multiple_of(8));
        let name = body.take(name)?;
        let mut dtype = Fields(body.take(dtype)?);
        body.skip(shape)?;
        let is_string = dtype.u8()? & 0x0f == 3;
        dtype.skip(3)?;
        let size = dtype.u32()? as usize;
        if is_string && size > 0 && name.starts_with(b"layer_names\0") {
            self.layer_names = body.0.chunks_exact(size).map(text).collect();
            ensure!(
                !self
                    .layer_names
                    .iter()
                    .any(|name| name.contains(char::is_control)),
                "a layer's name holds control characters; the file is damaged"
            );
        }
        Ok(())
    }
}

/// A string padded with zeros.
fn text(padded: &[u8]) -> String {
    let end = padded.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&padded[..end.unwrap_or(padded.len())]).into_owned()
}

fn shape(mut body: Fields<'_>) -> Result<Vec<usize>> {
    let version = body.u8()?;
    let rank = body.u8()?;
    body.skip(1)?;
    match version {
        1 => body.skip(5)?,
        2 => ensure!(body.u8()? < 2, "an empty dataset without a shape"),
        _ => bail!("dataspace of version {version}, want 1 or 2"),
    }
    ensure!(
        rank <= MAX_RANK,
        "{rank} dimensions, want at most {MAX_RANK}"
    );
    (0..rank)
        .map(|_| Ok(usize::try_from(body.u64()?)?))
        .collect()
}

/// Only numbers, little-endian, and only IEEE floats.
fn dtype(mut body: Fields<'_>) -> Result<Dtype> {
    let class = body.u8()? & 0x0f;
    let bits = [body.u8()?, body.u8()?, body.u8()?];
    let size = body.u32()?;
    if class > 1 {
        bail!("elements of HDF5 class {class}, want numbers");
    }
    ensure!(
        bits[0] & 0x41 == 0,
        "numbers with the high byte first, want little-endian"
    );
    let (offset, precision) = (body.u16()?, body.u16()?);
    ensure!(
        offset == 0 && u32::from(precision) == size.saturating_mul(8),
        "numbers of {precision} bits from bit {offset} of {size} bytes, want all bits used"
    );
    if class == 1 {
        let parts = [body.u8()?, body.u8()?, body.u8()?, body.u8()?];
        return match (size, bits[1], parts, body.u32()?) {
            (8, 63, [52, 11, 0, 52], 1023) => Ok(Dtype::F64),
            (4, 31, [23, 8, 0, 23], 127) => Ok(Dtype::F32),
            (2, 15, [10, 5, 0, 10], 15) => Ok(Dtype::F16),
            _ => bail!("floats of {size} bytes that are not IEEE floats"),
        };
    }
    match (size, bits[0] & 8 != 0) {
        (8, true) => Ok(Dtype::I64),
        (4, true) => Ok(Dtype::I32),
        (2, true) => Ok(Dtype::I16),
        (1, true) => Ok(Dtype::I8),
        (1, false) => Ok(Dtype::U8),
        (_, signed) => {
            bail!("whole numbers of {size} bytes, signed: {signed}; want int8 to int64 or uint8")
        }
    }
}

fn contiguous(mut body: Fields<'_>) -> Result<(u64, u64)> {
    let version = body.u8()?;
    ensure!(version == 3, "data layout of version {version}, want 3");
    match body.u8()? {
        1 => pair(body),
        0 => bail!("its data are in its header, want them in one piece outside"),
        2 => bail!("its data are in chunks, want them in one piece, uncompressed, as Keras writes"),
        class => bail!("data layout {class}, want 1 (in one piece)"),
    }
}
