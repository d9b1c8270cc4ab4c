use super::*;

const CHW: [i64; 3] = [3, 64, 64];

fn book(seed: u64, size: u32, chw: [i64; 3]) -> Codebook {
    Codebook::new(seed, size, chw).unwrap()
}

/// Bits printed by `scripts/reference/codebook.py`: files made today must decode for ever.
#[test]
fn entries_have_the_bits_of_the_recipe() {
    let bits = |book: Codebook, step, index| -> Vec<u32> {
        let entry = book.entry(step, index);
        entry.iter().map(|z| z.to_bits()).collect()
    };
    // codebook.py 0 1 0 8
    let wanted = [
        0x3ece_38e0,
        0xbe86_6d7c,
        0xbf6f_9d46,
        0x3f84_83b3,
        0xbee0_676f,
        0xbfae_0d86,
        0x3e97_01e4,
        0x3d8e_93f1,
    ];
    assert_eq!(bits(book(0, 2, [1, 2, 4]), 1, 0), wanted);
    // codebook.py 42 1000 1023 4; the second lies 3.6 below the middle.
    let wanted = [0xbf8f_5366, 0xc066_6abf, 0x3f97_67b7, 0xbeef_9275];
    assert_eq!(bits(book(42, 1024, [1, 2, 2]), 1000, 1023), wanted);
}

/// The last possible entry, as a checksum of 49,152 values.
#[test]
fn a_whole_entry_has_the_bits_of_the_recipe() {
    let book = book(u64::MAX, 65536, [3, 128, 128]);
    let entry = book.entry(MAX_STEPS - 1, 65535);
    let bytes: Vec<u8> = entry.iter().flat_map(|z| z.to_le_bytes()).collect();
    // zlib.crc32(codebook.entry(2**64 - 1, 2**48 - 1, 65535, 49152).tobytes())
    assert_eq!(crc32fast::hash(&bytes), 0x4ef2_84e7);
}

#[test]
fn neither_k_nor_the_shape_nor_company_changes_an_entry() {
    let small = book(7, 4, [1, 3, 5]);
    let large = book(7, 64, [3, 16, 17]);
    let all = large.entries(9);
    assert_eq!(all.len(), 64 * 3 * 16 * 17);
    for index in 0..4 {
        let entry = large.entry(9, index);
        assert_eq!(small.entry(9, index), entry[..15]);
        assert_eq!(all[index as usize * 816..][..816], entry);
    }
    assert_eq!(large.entries_in(9, 5..7), all[5 * 816..7 * 816]);
    assert!(large.entries_in(9, 3..3).is_empty());
}

#[test]
fn tensors_hold_the_same_values() {
    let book = book(7, 8, [3, 4, 5]);
    let entries = book.entries_tensor(2, 3..8);
    assert_eq!(entries.size(), [5, 3, 4, 5]);
    let entry = book.entry_tensor(2, 4);
    assert_eq!(entry.size(), [3, 4, 5]);
    assert_eq!(entries.get(1), entry);
    assert_eq!(
        Vec::<f32>::try_from(entry.view([-1])).unwrap(),
        book.entry(2, 4)
    );
}

/// Three million values: each moment and share within four standard errors.
#[test]
fn a_large_draw_is_standard_normal() {
    let values = book(1, 256, CHW).entries(3);
    let n = values.len() as f64;
    let moment = |k: i32| values.iter().map(|z| f64::from(*z).powi(k)).sum::<f64>() / n;
    for (k, wanted, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
        // variance of z^k is E z^2k - (E z^k)²
        let apart = (moment(k) - wanted).abs();
        assert!(apart < 4.0 * f64::sqrt(variance / n), "moment {k}: {apart}");
    }
    for (z, wanted) in [
        (1.0, 0.317_310_5),
        // where the two forms of the quantile meet
        (1.439_531_5, 0.15),
        (3.0, 0.002_699_8),
    ] {
        let share = values.iter().filter(|value| value.abs() > z).count() as f64 / n;
        let error = f64::sqrt(wanted * (1.0 - wanted) / n);
        assert!((share - wanted).abs() < 4.0 * error, "beyond {z}: {share}");
    }
}

#[test]
fn neighbours_are_independent() {
    let of = |seed, step, index| book(seed, 1024, [3, 256, 256]).entry(step, index);
    let entry = of(5, 8, 100);
    let correlation = |a: &[f32], b: &[f32]| {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
        sum / a.len() as f64
    };
    for (what, other) in [
        ("index", of(5, 8, 101)),
        ("step", of(5, 9, 100)),
        ("seed", of(6, 8, 100)),
        // the nonce is made of the two
        ("step and index", of(5, 100, 8)),
        ("value", entry[1..].to_vec()),
        ("block", entry[16..].to_vec()),
        ("run", entry[RUN..].to_vec()),
    ] {
        let found = correlation(&entry, &other);
        // 1 / sqrt(196,608) is one standard error.
        assert!(found.abs() < 4.0 * 0.002_26, "{what}: {found}");
    }
}

#[test]
fn what_cannot_be_a_codebook_is_refused() {
    let message = |size, chw| Codebook::new(0, size, chw).unwrap_err().to_string();
    for (size, nearest) in [
        (0, "nearest is 2"),
        (1, "nearest is 2"),
        (3, "nearest is 2 or 4"),
        (1000, "nearest is 512 or 1024"),
        (65537, "nearest is 65536"),
        (131_072, "nearest is 65536"),
        (u32::MAX, "nearest is 65536"),
    ] {
        let text = message(size, CHW);
        assert!(text.ends_with(nearest), "{text}");
        assert!(text.contains(&format!("of {size} entries")), "{text}");
    }
    for chw in [
        [0, 4, 4],
        [3, -1, -4],
        [3, i64::MAX, i64::MAX],
        [1, 1 << 28, 2],
    ] {
        let text = message(2, chw);
        assert!(text.contains(&format!("{chw:?}")), "{text}");
    }
    assert_eq!(book(0, 65536, [1, 1, 1]).index_bits(), 16);
    assert_eq!(book(0, 2, [1, 1, 1]).index_bits(), 1);
}

#[test]
#[should_panic(expected = "but K is 4")]
fn an_index_of_another_codebook_panics() {
    book(0, 4, [1, 2, 2]).entry(1, 4);
}
