use super::*;
use proptest::prelude::*;

/// 128 px in 30 of 1000 steps: the common case.
fn header() -> DdcmHeader {
    DdcmHeader {
        model_hash: std::array::from_fn(|i| i as u8 * 7),
        settings: String::new(),
        timesteps: 1000,
        steps: (0..30).rev().map(|i| i * 33).collect(),
        codebook_size: 1024,
        codebook_seed: 42,
        chw: [3, 128, 128],
        start_stored: false,
        last_stored: false,
    }
}

fn image(header: &DdcmHeader, seed: u32) -> Vec<u32> {
    (1..=header.indices_per_image() as u32)
        .map(|i| (i * 2_654_435 + seed) % header.codebook_size)
        .collect()
}

fn sample() -> Ddcm {
    let header = DdcmHeader {
        settings: "sigma = beta; x_0 clipped: größer".to_owned(),
        codebook_size: 64,
        last_stored: true,
        ..header()
    };
    let images = [image(&header, 1), image(&header, 2)];
    Ddcm::new(header, &images).unwrap()
}

/// A good file after `change`, with a checksum that fits.
fn resealed(change: impl FnOnce(&mut Vec<u8>)) -> DdcmError {
    let mut bytes = sample().to_bytes();
    bytes.truncate(bytes.len() - CHECKSUM_BYTES);
    change(&mut bytes);
    let checksum = checksum(&bytes);
    bytes.extend(checksum);
    from_bytes(&bytes).unwrap_err()
}

#[test]
fn a_file_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ddcm");
    let written = sample();
    write(&path, &written).unwrap();
    let ddcm = read(&path).unwrap();
    assert_eq!(ddcm, written);
    assert_eq!(ddcm.images(), 2);
    assert_eq!(ddcm.header().codebook_steps(), 1..31);
    assert_eq!(ddcm.indices(1), image(ddcm.header(), 2));
}

/// Byte by byte: a file of version 1 must be readable for ever.
#[test]
fn the_bytes_are_those_of_the_format() {
    let header = DdcmHeader {
        settings: "a".to_owned(),
        codebook_seed: 300,
        chw: [3, 8, 130],
        codebook_size: 16,
        steps: vec![999, 500, 0],
        start_stored: true,
        ..header()
    };
    assert_eq!(header.codebook_steps(), 0..3);
    let ddcm = Ddcm::new(header.clone(), &[vec![1, 2, 3], vec![15, 0, 9]]).unwrap();
    let bytes = ddcm.to_bytes();
    let (before, sum) = bytes.split_at(bytes.len() - 8);
    let wanted = [
        b"DDCM\x01\x01".as_slice(),
        &header.model_hash,
        &[1, b'a'],
        &[0xE8, 7],
        // 999 - 999/2 i, rounded down, with a half to spare: 500 is 999/2 rounded up
        &[0, 3, 0xCF, 0x0F, 0xE7, 7, 2],
        &[4, 0xAC, 2],
        &[3, 8, 0x82, 1],
        &[2],
        &[0x21, 0xF3, 0x90],
    ]
    .concat();
    assert_eq!(before, wanted);
    assert_eq!(sum, &blake3::hash(before).as_bytes()[..8]);
    assert_eq!(from_bytes(&bytes), Ok(ddcm));
}

#[test]
fn the_header_is_small() {
    let header = header();
    let indices = image(&header, 0);
    let ddcm = Ddcm::new(header, &[indices]).unwrap();
    // 29 indices of 10 bits are 37 bytes.
    assert_eq!(ddcm.to_bytes().len(), 37 + 63);
    let bits = ddcm.bits_per_pixel();
    assert_eq!(bits.indices, 290.0 / 16384.0);
    assert_eq!(bits.file, 8.0 * 100.0 / 16384.0);
}

#[test]
fn every_truncation_is_called_one() {
    let bytes = sample().to_bytes();
    for end in 0..bytes.len() {
        let error = from_bytes(&bytes[..end]).unwrap_err();
        assert!(
            matches!(error, DdcmError::Truncated { .. }),
            "{end}: {error}"
        );
    }
    let error = from_bytes(&bytes[..90]).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(&format!("has 90 bytes, wanted {}", bytes.len())),
        "{message}"
    );
}

#[test]
fn every_altered_byte_is_refused() {
    let bytes = sample().to_bytes();
    let mut altered = 0;
    for at in 0..bytes.len() {
        for change in 1..=255 {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            match from_bytes(&bytes).unwrap_err() {
                DdcmError::Altered => altered += 1,
                DdcmError::NotDdcm { .. } => assert!(at < 4, "{at}"),
                DdcmError::Newer { .. } => assert_eq!(at, 4),
                // A count that changed asks for another length.
                DdcmError::Truncated { .. } | DdcmError::Trailing { .. } => {
                    assert!((5..90).contains(&at), "{at}");
                }
                error => panic!("{at}: {error}"),
            }
        }
    }
    // The hash, the text, the indices and the checksum can only be called altered.
    assert!(altered > 255 * (32 + 34 + 45 + 8), "{altered}");
}

#[test]
fn what_is_not_such_a_file_is_told_apart() {
    let message = |bytes: &[u8]| from_bytes(bytes).unwrap_err().to_string();
    assert!(
        message(b"\x89PNG\r\n\x1a\n").contains("starts with [89 50 4e 47], wanted [44 44 43 4d]")
    );
    assert!(message(b"x").contains("not a .ddcm file"));
    assert!(message(b"DDCM\x02 whatever follows").contains("version 2 of the format"));
    let long = [sample().to_bytes(), b"tail".to_vec()].concat();
    assert_eq!(from_bytes(&long), Err(DdcmError::Trailing { bytes: 4 }));
    let missing = read(Path::new("/no/such/file.ddcm")).unwrap_err();
    assert!(format!("{missing:#}").contains("cannot read /no/such/file.ddcm: No such"));
}

#[test]
fn errors_name_the_file_and_can_be_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.ddcm");
    std::fs::write(&path, &sample().to_bytes()[..50]).unwrap();
    let error = read(&path).unwrap_err();
    assert!(format!("{error:#}").contains("cut.ddcm: cut short: it has 50 bytes"));
    assert!(matches!(
        error.downcast_ref(),
        Some(DdcmError::Truncated { .. })
    ));
}

/// Hostile files have checksums that fit.
#[test]
fn what_the_format_does_not_allow_is_refused_by_name() {
    const SETTINGS: usize = 38;
    // 35 bytes of text follow their length.
    const T: usize = SETTINGS + 36;
    const STEPS: usize = T + 2;
    // The form, then 30, 957, 33 and 1.
    const INDEX_BITS: usize = STEPS + 6;
    const SEED: usize = INDEX_BITS + 1;
    const IMAGES: usize = SEED + 6;
    for (at, new, reason) in [
        (4, &[0][..], "version 0, want 1"),
        (5, &[4], "flags 0b00000100"),
        (
            SETTINGS,
            &[0x81, 8],
            "length of the settings is 1025, want at most 1024",
        ),
        (SETTINGS + 1, b"\n", "control characters"),
        (SETTINGS + 1, &[0xFF], "not UTF-8"),
        (T, &[0, 0], "a model of 0 time steps"),
        (T, &[0x8F, 7], "all be below 911"),
        (T, &[0xFF, 0xFF, 0x7F], "T is 2097151, want at most 1048576"),
        (STEPS, &[2], "form 2, want 0 or 1"),
        (STEPS + 1, &[0], "there must be one"),
        (STEPS + 4, &[0], "must fall"),
        (INDEX_BITS, &[0], "a codebook of 1 entries"),
        (INDEX_BITS, &[17], "indices of 17 bits, want 1 to 16"),
        (SEED, &[0x80, 0], "not in its shortest form"),
        (SEED + 1, &[0], "images [C, H, W] = [0, 128, 128]"),
        (
            SEED + 1,
            &[255, 255, 255, 255, 15],
            "a side of the images is",
        ),
        (
            SEED + 1,
            &[0x80, 0x80, 0x80, 0x80, 1],
            "[C, H, W] = [268435456,",
        ),
        (IMAGES, &[0], "0 images of 180 bits, want 1 or more"),
        (
            IMAGES,
            &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
            "at most 268435456 bytes",
        ),
        (
            IMAGES,
            &[0x80, 0x80, 0x80, 0x80, 1],
            "at most 268435456 bytes",
        ),
    ] {
        let error = resealed(|bytes| {
            bytes.splice(at..at + new.len(), new.iter().copied());
        });
        assert!(
            matches!(error, DdcmError::Malformed { .. }),
            "{reason}: {error}"
        );
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    // 2 * 180 bits fill 45 bytes; three images of 180 leave half a byte.
    let header = sample().header().clone();
    let three = Ddcm::new(header.clone(), &[1, 2, 3].map(|seed| image(&header, seed))).unwrap();
    let mut bytes = three.to_bytes();
    bytes.truncate(bytes.len() - CHECKSUM_BYTES);
    *bytes.last_mut().unwrap() |= 0x10;
    let sum = checksum(&bytes);
    bytes.extend(sum);
    let message = from_bytes(&bytes).unwrap_err().to_string();
    assert!(
        message.contains("bits are set after the last index"),
        "{message}"
    );
}

#[test]
fn absurd_counts_ask_for_a_longer_file_and_for_no_memory() {
    // As many images as a file may hold: the header is right, and the rest is missing.
    let error = resealed(|bytes| {
        let images = bytes.len() - 46;
        assert_eq!(bytes[images], 2);
        bytes.splice(images.., [0xFF, 0xFF, 0x7F]);
    });
    assert!(matches!(error, DdcmError::Truncated { .. }), "{error}");
}

#[test]
fn what_does_not_fit_is_not_written() {
    let new = |header: DdcmHeader, images: &[Vec<u32>]| {
        Ddcm::new(header, images).unwrap_err().to_string()
    };
    let good = image(&header(), 0);
    let short = good[1..].to_vec();
    assert!(new(header(), &[good.clone(), short]).contains("28 indices, wanted 29"));
    let mut large = good.clone();
    large[3] = 1024;
    assert!(new(header(), &[large]).contains("index 1024 into a codebook of 1024"));
    assert!(new(header(), &[]).contains("0 images"));
    let changed = |change: fn(&mut DdcmHeader)| {
        let mut header = header();
        change(&mut header);
        new(header, std::slice::from_ref(&good))
    };
    assert!(changed(|h| h.codebook_size = 1000).contains("of 1000 entries, want a power of two"));
    assert!(changed(|h| h.codebook_size = 0).contains("of 0 entries"));
    assert!(changed(|h| h.codebook_size = 1 << 17).contains("of 131072 entries"));
    assert!(changed(|h| h.steps = vec![]).contains("there must be one"));
    assert!(changed(|h| h.steps = vec![3, 3]).contains("must fall"));
    assert!(changed(|h| h.steps = vec![1000, 3]).contains("below 1000"));
    assert!(changed(|h| h.steps = vec![5]).contains("without an index"));
    assert!(changed(|h| h.settings = "x".repeat(1025)).contains("1025 bytes"));
    assert!(changed(|h| h.chw = [3, -1, -1]).contains("[3, -1, -1]"));
    assert!(changed(|h| h.chw = [1, i64::MAX, 2]).contains("at most 268435456"));
}

fn any_header() -> impl Strategy<Value = DdcmHeader> {
    let steps = prop::collection::btree_set(0..5000u32, 2..40);
    let of_model = (
        any::<[u8; 32]>(),
        "[^\\p{Cc}]{0,40}",
        steps,
        5000..=1u32 << 20,
    );
    let of_codebook = (1..=16u32, any::<u64>(), any::<[bool; 2]>());
    (of_model, of_codebook, prop::array::uniform3(1..600i64)).prop_map(
        |((model_hash, settings, steps, timesteps), (bits, codebook_seed, stored), chw)| {
            DdcmHeader {
                model_hash,
                settings,
                timesteps,
                steps: steps.into_iter().rev().collect(),
                codebook_size: 1 << bits,
                codebook_seed,
                chw,
                start_stored: stored[0],
                last_stored: stored[1],
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn round_trip(header in any_header(), seeds in prop::collection::vec(any::<u16>(), 1..5)) {
        let images: Vec<Vec<u32>> = seeds
            .iter()
            .map(|seed| image(&header, u32::from(*seed)))
            .collect();
        let ddcm = Ddcm::new(header, &images).unwrap();
        let read = from_bytes(&ddcm.to_bytes()).unwrap();
        prop_assert_eq!(&read, &ddcm);
        for (number, indices) in images.iter().enumerate() {
            prop_assert_eq!(&read.indices(number), indices);
        }
    }

    /// Whatever is read can be written, to the same images; nothing panics.
    #[test]
    fn any_bytes_with_a_good_checksum(
        header in any_header(),
        at in any::<prop::sample::Index>(),
        new in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let indices = image(&header, 0);
        let mut bytes = Ddcm::new(header, &[indices]).unwrap().to_bytes();
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        let at = at.index(bytes.len());
        let end = (at + new.len()).min(bytes.len());
        bytes.splice(at..end, new);
        let sum = checksum(&bytes);
        bytes.extend(sum);
        if let Ok(ddcm) = from_bytes(&bytes) {
            prop_assert_eq!(from_bytes(&ddcm.to_bytes()), Ok(ddcm));
        }
    }
}
