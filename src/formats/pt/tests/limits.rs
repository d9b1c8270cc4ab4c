//! Small files that would cost much to read or to report.

use super::*;
use crate::formats::weights_file::WeightsFile;

fn weights(bytes: &[u8]) -> anyhow::Result<Vec<(String, Tensor)>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let file = WeightsFile::open(file.path())?;
    file.state_dict(&file.root)
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let mut bytes = zip_of(&[
        ("a/data.pkl", &dict_of(&view(6, 0, &[6], &[1]))),
        ("a/data/0", &[1, 2, 3, 4, 5, 6]),
        ("a/data/1", &[1, 2, 3, 4, 5, 6]),
    ]);
    let local: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(ZIP_MAGIC))
        .collect();
    let mut central = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(CENTRAL));
    let last = central.next_back().unwrap();
    // The directory's last entry points to the one before it.
    bytes[last + 42..][..4].copy_from_slice(&(local[1] as u32).to_le_bytes());
    assert!(matches!(
        read_bytes(&bytes).unwrap_err(),
        CheckpointError::OverlappingEntries { .. }
    ));
}

#[test]
fn views_that_step_over_much_of_a_storage_are_limited() {
    // Two elements each, and each reads the whole storage.
    let numel = 300_000;
    let many: Vec<Vec<u8>> = (0..100)
        .map(|name| [text(&name.to_string()), view(numel, 0, &[2], &[numel - 1])].concat())
        .collect();
    let pickle = |count: usize| [b"\x80\x02}(", &many[..count].concat()[..], b"u."].concat();
    let file = |count| {
        zip_of(&[
            ("a/data.pkl", &pickle(count)),
            ("a/data/0", &vec![7; 300_000]),
        ])
    };
    let few = weights(&file(10)).unwrap();
    assert!(few.iter().all(|(_, tensor)| to_host(tensor).data == [7, 7]));
    let error = format!("{:#}", weights(&file(100)).unwrap_err());
    assert!(error.contains("the limit for this file"), "{error}");
}

#[test]
fn long_names_are_cut_in_messages() {
    let long = "n".repeat(100_000);
    let tensor = [
        b"\x80\x02}",
        &text(&long)[..],
        &view(7, 0, &[7], &[1]),
        b"s.",
    ]
    .concat();
    let other = [b"\x80\x02}", &text(&long)[..], b"Ns."].concat();
    for pickle in [tensor, other] {
        let bytes = zip_of(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 6])]);
        let message = format!("{:#}", weights(&bytes).unwrap_err());
        assert!(message.contains("nnn") && message.len() < 1000, "{message}");
    }
}

#[test]
fn many_ends_of_a_directory_take_little_work() {
    // 40,000 zip64 directory ends, and as many ends that each might belong to any of them.
    let end64 = [b"PK\x06\x06\x2c", &[0; 51][..]].concat();
    let locator = [b"PK\x06\x07\0\0\0\0\x1f", &[0; 7][..], &[1, 0, 0, 0]].concat();
    let end = [b"PK\x05\x06\0\0\0\0", &[0xff; 12][..], &[0, 0]].concat();
    let bytes = [
        &zip_view(&view(6, 0, &[6], &[1]))[..],
        &end64.repeat(40_000),
        &[locator, end].concat().repeat(40_000),
    ]
    .concat();
    assert!(matches!(
        read_bytes(&bytes).unwrap_err(),
        CheckpointError::Zip { .. }
    ));
}
