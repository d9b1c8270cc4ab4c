//! safetensors files with false headers.

use crate::build::*;

/// One tensor of the header.
fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(
        "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}"
    )
}

fn header(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

fn one(dtype: &str, shape: &str, start: u64, end: u64) -> String {
    header(&[entry("w", dtype, shape, start, end)])
}

#[track_caller]
fn refused_header(header: impl AsRef<[u8]>, data_bytes: usize, words: &str) {
    refused("w.safetensors", &safetensors_of(header, data_bytes), words);
}

#[test]
fn lengths_of_the_header_are_held_against_the_file() {
    let _bound = memory_bound();
    let file = |length: u64, rest: &[u8]| [&length.to_le_bytes()[..], rest].concat();
    for length in [u64::MAX, 1 << 63, 1 << 40, (8 << 20) + 1] {
        // An impossible length is not read as a header's.
        let words = match length {
            ..=100_000_000 => format!("should take {length} bytes, wanted at most 8388608"),
            _ => "holds no weights that can be read".to_owned(),
        };
        refused("w.safetensors", &file(length, b"{}"), &words);
    }
    refused(
        "w.safetensors",
        &file(3, b"{}"),
        "should take 3 bytes, found 2",
    );
    refused("w.safetensors", &file(8 << 20, b"{}"), "found 2");
    refused("w.safetensors", &file(1, b"{}"), "EOF");
    refused("w.safetensors", &file(0, b""), "holds no weights");
    refused("w.safetensors", b"", "it is empty");
    refused("w.safetensors", &[0; 7], "holds no weights");
}

#[test]
fn offsets_and_shapes_are_held_against_the_data() {
    let _bound = memory_bound();
    let two = |a: (u64, u64), b: (u64, u64)| {
        let shape = |(start, end): (u64, u64)| format!("[{}]", end.saturating_sub(start));
        header(&[
            entry("a", "U8", &shape(a), a.0, a.1),
            entry("b", "U8", &shape(b), b.0, b.1),
        ])
    };
    refused_header(two((0, 4), (2, 6)), 6, ""); // overlap
    refused_header(two((0, 4), (0, 4)), 4, "");
    refused_header(two((0, 4), (5, 8)), 8, ""); // a gap
    refused_header(two((1, 4), (4, 8)), 8, "");
    refused_header(two((0, 4), (4, 8)), 9, ""); // more data than tensors
    refused_header(two((0, 4), (4, 8)), 7, "");
    refused_header(two((4, 0), (4, 8)), 8, "");
    refused_header(one("F32", "[2]", 0, 4), 4, "");
    refused_header(one("F32", "[-1]", 0, 4), 4, "");
    refused_header(one("F32", "[1.0]", 0, 4), 4, "");
    refused_header(one("F32", "1", 0, 4), 4, "");
    refused_header(one("U8", "[4611686018427387904,8]", 0, 0), 0, "");
    refused_header(one("F64", "[2305843009213693952]", 0, 0), 0, "");
    refused_header(one("U8", "[18446744073709551616]", 0, 0), 0, "");
    refused_header(one("U8", "[0]", u64::MAX, u64::MAX), 0, "");
    let dims = format!("[{}]", vec!["1"; 65].join(","));
    refused_header(
        one("U8", &dims, 0, 1),
        1,
        "\"w\" has 65 dimensions, wanted at most 64",
    );
}

#[test]
fn headers_that_are_no_list_of_tensors_are_refused() {
    let _bound = memory_bound();
    let texts: [&[u8]; 12] = [
        b"{",
        b"[]",
        b"null",
        b"\"x\"",
        b"{}{}",
        b"{\"w\":1}",
        b"{\"w\":{}}",
        b"{\"w\xff\":1}",
        b"{\"\\ud800\":1}",
        b"{\"__metadata__\":1}",
        b"{\"__metadata__\":{\"k\":1}}",
        b"\x80\x02N.",
    ];
    for text in texts {
        let words = match text {
            [b'{', ..] => "not a safetensors file",
            _ => "holds no weights that can be read",
        };
        refused_header(text, 0, words);
    }
    refused_header("[".repeat(100_000), 0, "");
    refused_header(format!("{{\"w\":{}", "[".repeat(100_000)), 0, "");
    refused_header(one("F99", "[1]", 0, 4), 4, "unknown variant `F99`");
    refused_header(
        one("F8_E4M3", "[4]", 0, 4),
        4,
        "which libtorch does not have",
    );
}

#[test]
fn the_longest_headers_take_bounded_memory() {
    let _bound = memory_bound();
    let long = |item: &str| {
        let mut text = format!(
            "{{\"w\":[{}",
            format!("{item},").repeat((8 << 20) / (item.len() + 1))
        );
        text.truncate((8 << 20) - 8);
        text + "0]}"
    };
    refused_header(long("0"), 0, "invalid type");
    refused_header(long("[0]"), 0, "");
    refused_header(long("{\"\":0}"), 0, "");
}

#[test]
fn keys_that_stand_twice_are_refused() {
    let _bound = memory_bound();
    let w = entry("w", "U8", "[4]", 0, 4);
    let escaped = w.replace("\"w\"", "\"\\u0077\"");
    let words = "the key \"w\" is there twice";
    refused_header(header(&[w.clone(), w.clone()]), 4, words);
    refused_header(header(&[w.clone(), escaped]), 4, words);
    let metadata = "\"__metadata__\":{\"w\":\"1\",\"w\":\"2\"}".to_owned();
    refused_header(header(&[metadata, w]), 4, words);
    let fields = one("U8", "[4]", 0, 4).replace("{\"dtype\"", "{\"dtype\":\"I8\",\"dtype\"");
    refused_header(fields, 4, "duplicate field");
}

#[test]
fn data_that_its_dtype_cannot_hold_are_refused() {
    let _bound = memory_bound();
    let mut bytes = safetensors_of(one("BOOL", "[4]", 0, 4), 4);
    *bytes.last_mut().unwrap() = 2;
    refused(
        "w.safetensors",
        &bytes,
        "a bool is stored as 0 or 1, found 2",
    );
}

#[test]
fn messages_are_short_and_do_not_steer_the_terminal() {
    let _bound = memory_bound();
    let long = "w".repeat(1 << 20);
    let escape = "\\u001b[2J\\u202e";
    for name in [&long[..], escape] {
        let checkpoint = format!("{{\"__metadata__\":{{\"ddpm\":\"{name}\"}}}}");
        crate::readers::safetensors(&safetensors_of(checkpoint, 0));
        let twice = entry(name, "U8", "[4]", 0, 4);
        for header in [
            header(&[entry(name, "F8_E4M3", "[4]", 0, 4)]),
            header(&[entry("w", name, "[4]", 0, 4)]),
            header(&[twice.clone(), twice]),
        ] {
            let bytes = safetensors_of(&header, 4);
            refusal("w.safetensors", &bytes);
            crate::readers::safetensors(&bytes); // holds the messages to it
        }
    }
}
