//! The frame of a record: length, checksum of the length, data, checksum of the data.
//!
//! Source: TensorFlow's TFRecord format, <https://www.tensorflow.org/tutorials/load_data/tfrecord>

/// Added to a checksum of a file that holds checksums itself.
const MASK: u32 = 0xa282_ead8;

/// Appends a record with this data.
pub(super) fn append(to: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    to.extend(length);
    to.extend(masked(&length).to_le_bytes());
    to.extend(data);
    to.extend(masked(data).to_le_bytes());
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes are from `tensorboard.summary.writer.record_writer` of TensorBoard 2.21.
    #[test]
    fn a_record_is_tensorboards_own() {
        let mut record = Vec::new();
        append(&mut record, b"\x1a\x0dbrain.Event:2");
        let wanted = b"\x0f\0\0\0\0\0\0\0\x6d\x53\x2b\x09\x1a\x0dbrain.Event:2\xfc\x98\x51\x29";
        assert_eq!(record, wanted);
    }
}
