//! Numbers and bytes of the header, one after the other.

use super::error::DdcmError;

/// A reader that never goes past the end.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Fields<'a> {
        Fields { bytes, position }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DdcmError> {
        let taken = self.rest().get(..count).ok_or_else(|| self.cut_short())?;
        self.position += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DdcmError> {
        let taken = self.rest().first_chunk().ok_or_else(|| self.cut_short())?;
        self.position += N;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DdcmError> {
        Ok(self.array::<1>()?[0])
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }

    fn cut_short(&self) -> DdcmError {
        DdcmError::Truncated {
            found_bytes: self.bytes.len(),
            wanted: "more than that for the header alone".to_owned(),
        }
    }

    /// An unsigned LEB128 number in its shortest form.
    pub(super) fn varint(&mut self) -> Result<u64, DdcmError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7F);
            value |= low << shift;
            if byte < 0x80 {
                let lost = low << shift >> shift != low;
                let padded = byte == 0 && shift > 0;
                return if lost || padded {
                    Err(odd_varint())
                } else {
                    Ok(value)
                };
            }
        }
        Err(odd_varint())
    }

    /// [`varint`](Fields::varint) for a number up to `most`.
    pub(super) fn varint_to(&mut self, most: u64, name: &str) -> Result<u64, DdcmError> {
        let value = self.varint()?;
        if value > most {
            let what = format!("{name} is {value}, want at most {most}");
            return Err(DdcmError::malformed(what));
        }
        Ok(value)
    }
}

fn odd_varint() -> DdcmError {
    DdcmError::malformed("a number of more than 64 bits, or not in its shortest form".to_owned())
}

/// Appends an unsigned LEB128 number.
pub(super) fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<u64, DdcmError> {
        Fields::new(bytes, 0).varint()
    }

    #[test]
    fn varints_are_leb128() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7F]),
            (128, &[0x80, 1]),
            // The example of the DWARF standard, section 7.6.
            (12_857, &[0xB9, 0x64]),
            (u64::MAX, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut written = Vec::new();
            push_varint(&mut written, value);
            assert_eq!(written, bytes);
            assert_eq!(read(bytes), Ok(value));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for bytes in [
            &[0x80, 0][..],
            &[0xFF, 0x80, 0],
            &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
            &[255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert_eq!(read(bytes), Err(odd_varint()), "{bytes:?}");
        }
        for bytes in [&[][..], &[0x80], &[255; 9]] {
            let error = read(bytes).unwrap_err();
            assert!(matches!(error, DdcmError::Truncated { .. }), "{error}");
        }
    }
}
