//! Archives and older files whose parts contradict each other.

use ddpm::formats::read_state_dict;

use crate::build::*;
use crate::readers::{LEGACY_MAGIC, legacy_of, with_file, zip_of};

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const PICKLE: &str = "a/data.pkl";

fn bytes_view() -> Vec<u8> {
    view(&storage("ByteStorage", "0", 24), 0, &[24], &[1])
}

/// A good archive of one tensor of 24 bytes.
fn good_zip() -> Vec<u8> {
    zip_pickle(&weights(bytes_view()))
}

fn reads(bytes: &[u8]) -> bool {
    with_file("file.pt", bytes, |path| read_state_dict(path).is_ok())
}

#[test]
fn what_the_builders_make_is_read() {
    assert!(reads(&good_zip()));
    assert!(reads(&legacy_of(&weights(bytes_view()), &[0; 24])));
}

#[test]
fn compressed_entries_are_refused() {
    let _bound = memory_bound();
    // The second entry says that it is deflated and makes 4 GB of zeros.
    let deflated = patch(&good_zip(), CENTRAL, 1, 10, &[8, 0]);
    let bomb = patch(&deflated, CENTRAL, 1, 24, &[0xf0, 0xff, 0xff, 0xff]);
    for bytes in [deflated, bomb] {
        refused(
            "deflated.pt",
            &bytes,
            "\"a/data/0\" is compressed or encrypted",
        );
    }
    let larger = patch(&good_zip(), CENTRAL, 1, 24, &[25]);
    refused(
        "larger.pt",
        &larger,
        "\"a/data/0\" is compressed or encrypted",
    );
    let encrypted = patch(&good_zip(), CENTRAL, 1, 8, &[1]);
    refused(
        "encrypted.pt",
        &encrypted,
        "\"a/data/0\" is compressed or encrypted",
    );
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let _bound = memory_bound();
    let pickle = weights(bytes_view());
    let entries = [
        (PICKLE, &pickle[..]),
        ("a/data/0", &[0; 24]),
        ("a/data/1", &[0; 24]),
    ];
    let whole = zip_of(&entries);
    assert!(reads(&whole));
    let start = whole.windows(4).rposition(|bytes| bytes == LOCAL).unwrap() as u32;
    // The same header, the same data, the next entry's header inside, the directory inside.
    let same = patch(&whole, CENTRAL, 1, 42, &start.to_le_bytes());
    let mut long = whole.clone();
    for (nth, signature, offset) in [(1, CENTRAL, 20), (1, CENTRAL, 24)] {
        long = patch(&long, signature, nth, offset, &[60]);
    }
    let mut tail = whole;
    for offset in [20, 24] {
        tail = patch(&tail, CENTRAL, 2, offset, &[40]);
    }
    for bytes in [same, long, tail] {
        refused("overlap.pt", &bytes, "holds zip entries that overlap");
    }
}

#[test]
fn names_that_stand_twice_or_in_the_wrong_folder_are_refused() {
    let _bound = memory_bound();
    let pickle = weights(bytes_view());
    let twice = |name| zip_of(&[(PICKLE, &pickle), ("a/data/0", &[0; 24]), (name, &[1; 24])]);
    refused(
        "twice.pt",
        &twice("a/data/0"),
        "two zip entries of the same name",
    );
    refused(
        "twice.pt",
        &twice(PICKLE),
        "two zip entries of the same name",
    );
    refused(
        "two.pt",
        &twice("b/data.pkl"),
        "2 entries named <folder>/data.pkl, wanted 1",
    );
    refused(
        "script.pt",
        &twice("a/code/constants.pkl"),
        "a TorchScript archive",
    );
    refused(
        "big.pt",
        &zip_of(&[(PICKLE, &pickle), ("a/byteorder", b"big")]),
        "byte order \"big\"",
    );
    let orders: [&[u8]; 3] = [b"", b"littleendian", b"\x1b[2J"];
    for order in orders {
        let bytes = zip_of(&[(PICKLE, &pickle), ("a/byteorder", order)]);
        refused("order.pt", &bytes, "wanted \"little\"");
    }
    for name in [
        "data.pkl",
        "a/b/data.pkl",
        "a/data.pkl/",
        "a/DATA.PKL",
        "a\\data.pkl",
    ] {
        refused(
            "none.pt",
            &zip_of(&[(name, &pickle)]),
            "with 0 entries named <folder>/data.pkl",
        );
    }
    refused(
        "long.pt",
        &zip_of(&[(&"n".repeat(60_000), &[])]),
        "with 0 entries",
    );
}

#[test]
fn names_outside_the_archive_are_names_only() {
    let _bound = memory_bound();
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside").display().to_string();
    let pickle = weights(bytes_view());
    for name in [
        "../outside",
        "a/../../outside",
        &outside,
        "a/data/../0",
        "a/data/\0",
    ] {
        let bytes = zip_of(&[(PICKLE, &pickle), ("a/data/0", &[0; 24]), (name, &[1; 24])]);
        assert!(reads(&bytes), "{name}");
        let alone = zip_of(&[(PICKLE, &pickle), (name, &[0; 24])]);
        refused("absent.pt", &alone, "its storage \"0\" is not in the file");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_lies_is_refused() {
    let _bound = memory_bound();
    let zip = good_zip();
    let damaged = "its directory cannot be read";
    for (offset, new) in [
        (4, &[1, 0][..]),               // on another disk
        (8, &[0xfe, 0xff, 0xfe, 0xff]), // 65,534 entries
        (8, &[3, 0, 3, 0]),
        (16, &[0xff, 0xff, 0xff, 0x7f]), // the directory behind the end
        (20, &[0xff, 0xff]),             // a comment longer than the file
    ] {
        refused("end.pt", &patch(&zip, END, 0, offset, new), damaged);
    }
    for (offset, new) in [
        (28, &[0xff, 0xff][..]),         // a name longer than the file
        (30, &[0xff, 0xff]),             // fields longer than the file
        (42, &[0xf0, 0xff, 0xff, 0x7f]), // a header behind the end
        (42, &[1, 0, 0, 0]),             // not a header
    ] {
        refused("entry.pt", &patch(&zip, CENTRAL, 0, offset, new), "");
    }
    let local = patch(&zip, LOCAL, 1, 26, &[0xff, 0xff]);
    refused(
        "local.pt",
        &local,
        "\"a/data/0\" should hold 24 bytes from byte",
    );
    refused(
        "start.pt",
        &[b"#!", &zip[..]].concat(),
        "holds no weights that can be read",
    );
}

/// The archive with a zip64 directory end, of which `lie` changes the bytes.
fn zip64(lie: impl Fn(&mut [u8])) -> Vec<u8> {
    let zip = good_zip();
    let end = zip.windows(4).rposition(|bytes| bytes == END).unwrap();
    let field = |at: usize| u32::from_le_bytes(zip[end + at..][..4].try_into().unwrap());
    let mut record = b"PK\x06\x06".to_vec();
    record.extend(44_u64.to_le_bytes());
    record.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for number in [2, 2, u64::from(field(12)), u64::from(field(16))] {
        record.extend(number.to_le_bytes());
    }
    lie(&mut record);
    let mut bytes = [&zip[..end], &record].concat();
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend((end as u64).to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([0xff; 12]);
    bytes.extend([0; 2]);
    bytes
}

#[test]
fn a_zip64_directory_that_lies_is_refused() {
    let _bound = memory_bound();
    assert!(reads(&zip64(|_| ())));
    for at in [4, 24, 32, 48] {
        for number in [u64::MAX, 1 << 63, 1 << 40, 1000] {
            let bytes = zip64(|record| record[at..][..8].copy_from_slice(&number.to_le_bytes()));
            refused("zip64.pt", &bytes, "its directory cannot be read");
        }
    }
    // Sizes of an entry that a zip64 field makes larger than the file.
    let mut entry = good_zip();
    let at = entry
        .windows(4)
        .rposition(|bytes| bytes == CENTRAL)
        .unwrap();
    let field = [
        &[1, 0, 16, 0][..],
        &u64::MAX.to_le_bytes(),
        &u64::MAX.to_le_bytes(),
    ]
    .concat();
    let end = at + 46 + "a/data/0".len();
    entry.splice(end..end, field);
    let entry = patch(&entry, CENTRAL, 1, 20, &[0xff; 8]);
    let entry = patch(&entry, CENTRAL, 1, 30, &[20, 0]);
    let size = entry[entry.len() - 10] + 20;
    refused("entry64.pt", &patch(&entry, END, 0, 12, &[size]), "");
}

#[test]
fn sizes_in_local_headers_count_for_nothing() {
    let _bound = memory_bound();
    // A data descriptor is announced, and the header before the data says 0 or 4 GB.
    for size in [[0; 8], [0xff; 8]] {
        let flagged = patch(&good_zip(), LOCAL, 1, 6, &[8, 0]);
        let flagged = patch(&flagged, CENTRAL, 1, 8, &[8, 0]);
        assert!(reads(&patch(&flagged, LOCAL, 1, 18, &size)));
    }
}

#[test]
fn older_files_whose_parts_do_not_fit_are_refused() {
    let _bound = memory_bound();
    let whole = legacy_of(&weights(bytes_view()), &[0; 24]);
    let keys = b"\x80\x02]X\x01\0\0\x000a.";
    let at = whole
        .windows(keys.len())
        .position(|bytes| bytes == keys)
        .unwrap();
    let with_keys =
        |list: &[u8]| [&whole[..at], &pickle(&[list]), &whole[at + keys.len()..]].concat();
    let zero = text("0");
    for list in [
        b"N".to_vec(),
        b"}".to_vec(),
        b"](K\0e".to_vec(),
        [b"](", &text("1")[..], b"e"].concat(),
        [b"](", &zero[..], &zero, b"e"].concat(),
        [b"(", &zero[..], b"t"].concat(),
    ] {
        let words = "the storage list of this file in the format before torch 1.6";
        // Twice the same key may run off the end first.
        let message = refusal("keys.pt", &with_keys(&list));
        assert!(
            message.contains(words) || message.contains("cut short"),
            "{message}"
        );
    }
    refused(
        "none.pt",
        &with_keys(b"]"),
        "its storage \"0\" is not in the file",
    );
    for numel in [0, 23, 25, 1 << 40, u64::MAX] {
        let lie = [&whole[..at + keys.len()], &numel.to_le_bytes(), &[0; 24]].concat();
        refused("numel.pt", &lie, "should be 24, found");
    }
    let short = &whole[..whole.len() - 1];
    refused("short.pt", short, "\"storage 0\" should hold 24 bytes");
    let magic = LEGACY_MAGIC.len();
    refused(
        "version.pt",
        &patch(&whole, b"M\xe9\x03", 0, 1, &[0]),
        "should be 1001",
    );
    refused(
        "big.pt",
        &patch(&whole, b"little_endian\x88", 0, 13, &[0x89]),
        "byte order \"big\"",
    );
    refused(
        "magic.pt",
        &patch(&whole, LEGACY_MAGIC, 0, 5, &[0]),
        "holds no weights that can be read",
    );
    refused(
        "system.pt",
        &patch(&whole, &whole[magic..magic + 2], 0, 0, b"c"),
        "",
    );
}
