//! Numbers of 1 to 16 bits without gaps, least significant bit first.

use std::ops::Range;

/// Packs numbers, each below 2^`bits`.
pub(super) fn pack(numbers: impl Iterator<Item = u32>, bits: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut pending, mut pending_bits) = (0, 0);
    for number in numbers {
        pending |= number << pending_bits;
        pending_bits += bits;
        while pending_bits >= 8 {
            bytes.push(pending as u8);
            pending >>= 8;
            pending_bits -= 8;
        }
    }
    if pending_bits > 0 {
        bytes.push(pending as u8);
    }
    bytes
}

/// Numbers `numbers` of the bytes from [`pack`].
pub(super) fn unpack(bytes: &[u8], numbers: Range<usize>, bits: u32) -> Vec<u32> {
    let mask = (1 << bits) - 1;
    numbers
        .map(|number| {
            let start = number * bits as usize;
            // 16 bits that start within a byte end within the third.
            let three = bytes[start / 8..].iter().take(3).rev();
            let together = three.fold(0, |all, byte| all << 8 | u32::from(*byte));
            together >> (start % 8) & mask
        })
        .collect()
}

/// True if all bits from `used` on are 0.
pub(super) fn rest_is_zero(bytes: &[u8], used: usize) -> bool {
    let first = bytes.get(used / 8).copied().unwrap_or(0);
    first >> (used % 8) == 0 && bytes.iter().skip(used / 8 + 1).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_fill_bytes_from_the_least_significant() {
        // 0b101, 0b011, 0b110 | 0b001 -> 1_0_011_101 is cut after the second bit of the third number.
        let packed = pack([0b101, 0b011, 0b110, 0b001].into_iter(), 3);
        assert_eq!(packed, [0b1001_1101, 0b0000_0011]);
        assert_eq!(unpack(&packed, 0..4, 3), [5, 3, 6, 1]);
        assert_eq!(unpack(&packed, 2..3, 3), [6]);
    }

    #[test]
    fn every_width_comes_back() {
        for bits in 1..=16 {
            let numbers: Vec<u32> = (0..37u32)
                .map(|i| i.wrapping_mul(0x9E37_79B9) >> (32 - bits))
                .collect();
            let packed = pack(numbers.iter().copied(), bits);
            assert_eq!(packed.len(), (37 * bits as usize).div_ceil(8));
            assert_eq!(unpack(&packed, 0..37, bits), numbers);
            assert!(rest_is_zero(&packed, 37 * bits as usize));
        }
    }

    #[test]
    fn bits_beyond_the_last_are_seen() {
        assert!(rest_is_zero(&[0b0000_0111], 3));
        assert!(!rest_is_zero(&[0b0000_1000], 3));
        assert!(!rest_is_zero(&[0, 1], 3));
        assert!(rest_is_zero(&[255], 8));
        assert!(rest_is_zero(&[], 0));
    }
}
