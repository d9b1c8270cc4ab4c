use proptest::prelude::*;

use super::*;

fn manifest(images: &[(&str, u64)]) -> Manifest {
    Manifest::new(
        images
            .iter()
            .map(|(name, hash)| ((*name).to_owned(), *hash)),
    )
}

fn three() -> Manifest {
    manifest(&[("a.png", 1), ("b/c d.png", 2), (r"caf\xe9.png", u64::MAX)])
}

proptest! {
    #[test]
    fn any_bytes_make_one_line_and_come_back(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let text = escape(&bytes);
        prop_assert!(!text.contains(char::is_control), "{:?}", text);
        prop_assert_eq!(unescape(&text), Some(bytes));
    }

    #[test]
    fn any_text_makes_one_line_and_comes_back(name in r"[a\\xnt0-9\n\té\u{80}-\u{9f}]{0,20}") {
        let text = escape(name.as_bytes());
        prop_assert!(!text.contains(char::is_control), "{:?}", text);
        prop_assert_eq!(unescape(&text), Some(name.into_bytes()));
    }

    #[test]
    fn lists_come_back(images in prop::collection::hash_map(
        prop::collection::vec(any::<u8>(), 1..20), any::<u64>(), 0..20,
    )) {
        let list = Manifest::new(images.iter().map(|(name, hash)| (escape(name), *hash)));
        let read = Manifest::parse(list.to_text().as_bytes()).unwrap();
        prop_assert_eq!(&read, &list);
        prop_assert_eq!(read.fingerprint(), list.fingerprint());
    }

    /// Every text that is accepted is written back the same: a list has one form.
    #[test]
    fn a_changed_byte_is_seen_or_is_another_list(at in 0usize..500, byte in any::<u8>()) {
        let mut bytes = three().to_text().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(read) = Manifest::parse(&bytes) {
            prop_assert_eq!(read.to_text().into_bytes(), bytes);
        }
    }
}

#[test]
fn names_are_escaped_as_documented() {
    let escaped = escape(b"a b\\c\nd\te\rf\x1b[0m \xc3\xa9 \xff\xfe.png \xc2\x85");
    assert_eq!(escaped, r"a b\\c\nd\te\rf\x1b[0m é \xff\xfe.png \xc2\x85");
    for wrong in [r"\", r"\q", r"\x", r"\x1", r"\xg0", r"\é"] {
        assert_eq!(unescape(wrong), None, "{wrong}");
    }
}

#[test]
fn the_text_is_as_documented() {
    let text = "ddpm pictures 1 3\n0000000000000001\ta.png\n\
        0000000000000002\tb/c d.png\nffffffffffffffff\tcaf\\xe9.png\n";
    assert_eq!(three().to_text(), text);
    assert_eq!(
        three().fingerprint(),
        blake3::hash(text.as_bytes()).to_hex().as_str()
    );
    // The first digits of BLAKE3 of nothing, from the specification.
    assert_eq!(hash(b""), 0xaf13_49b9_f5f9_a1a6);
}

#[test]
fn files_come_back_and_are_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.txt");
    for list in [three(), Manifest::default()] {
        list.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), list);
    }
    let list = three();
    assert_eq!((list.len(), list.is_empty()), (3, false));
    assert_eq!((list.name(1), list.hash(1)), (Some("b/c d.png"), Some(2)));
    assert_eq!((list.name(3), list.hash(3)), (None, None));
}

/// The error of reading a file with these `bytes`.
fn error(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.txt");
    fs_err::write(&path, bytes).unwrap();
    let error = format!("{:#}", Manifest::read(&path).unwrap_err());
    assert!(error.contains("images.txt"), "{error}");
    error
}

#[test]
fn each_way_to_be_damaged_is_named() {
    let good = three().to_text();
    let cases: [(&str, &str); 12] = [
        ("", "does not begin with"),
        ("\u{7f}ELF", "does not begin with"),
        ("ddpm pictures 2 1\n", "version \"2\""),
        ("ddpm pictures 1\n", "gives \"\" as the number"),
        ("ddpm pictures 1 +3\n", "gives \"+3\" as the number"),
        ("ddpm pictures 1 1\nx\n", "line 2, \"x\": no tab"),
        ("ddpm pictures 1 1\n12\ta\n", "not 16 hexadecimal digits"),
        ("ddpm pictures 1 1\n000000000000000A\ta\n", "not 16 hex"),
        ("ddpm pictures 1 1\n000000000000000a\t\n", "the name is not"),
        (
            "ddpm pictures 1 1\n000000000000000a\t\\x41\n",
            "the name is not",
        ),
        (
            "ddpm pictures 1 2\n000000000000000a\ta\n000000000000000b\ta\n",
            "line 3, \"000000000000000b\\ta\": the name occurs twice",
        ),
        (good.trim_end(), "no newline: cut short"),
    ];
    for (text, wanted) in cases {
        let error = error(text.as_bytes());
        assert!(error.contains(wanted), "{text:?}: {error}");
    }
    let not_text = error(b"ddpm pictures 1 1\n000000000000000a\t\xff\n");
    assert!(not_text.contains("not UTF-8"), "{not_text}");
    let long = format!("ddpm pictures 1 1\n{}\n", "x".repeat(5000));
    assert!(error(long.as_bytes()).len() < 300);
    let missing = Manifest::read(Path::new("/no/such/file")).unwrap_err();
    assert!(format!("{missing:#}").contains("/no/such/file"));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = three().to_text();
    for length in 0..whole.len() {
        assert!(
            Manifest::parse(&whole.as_bytes()[..length]).is_err(),
            "{length}"
        );
    }
    assert!(Manifest::parse(format!("{whole}\n").as_bytes()).is_err());
}

#[test]
fn differences_are_told_apart() {
    let before = manifest(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let now = |images: &[(&str, u64)]| manifest(images).differences(&before);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(before.differences(&before), None);
    assert_eq!(
        now(&[("b", 2), ("a", 1), ("c", 3), ("d", 4)]),
        text("the same images in another order")
    );
    assert_eq!(
        now(&[("a", 1), ("b", 9), ("c", 3)]),
        text("1 is gone (d), 1 has other contents (b)")
    );
    assert_eq!(
        now(&[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("x", 8), ("y", 7)]),
        text("2 are new (x, y)")
    );
    assert_eq!(
        now(&[("a", 1), ("b", 2), ("e/c", 3), ("x", 5)]),
        text("1 is gone (d), 1 is new (x), 1 is moved or renamed (c to e/c)")
    );
    // Swapped contents keep their names.
    assert_eq!(
        now(&[("a", 2), ("b", 1), ("c", 3), ("d", 4)]),
        text("2 have other contents (a, b)")
    );
}

#[test]
fn equal_images_move_one_by_one() {
    let before = manifest(&[("a", 7), ("b", 7), ("c", 7)]);
    let now = manifest(&[("x", 7), ("y", 7)]);
    assert_eq!(
        now.differences(&before).unwrap(),
        "1 is gone (c), 2 are moved or renamed (a to x, b to y)"
    );
    assert_eq!(
        before.differences(&now).unwrap(),
        "1 is new (c), 2 are moved or renamed (x to a, y to b)"
    );
}

#[test]
fn many_names_are_cut_off_after_five() {
    let names: Vec<String> = (0..7).map(|i| format!("{i}.png")).collect();
    let before = Manifest::new(names.into_iter().zip(0..));
    assert_eq!(
        Manifest::default().differences(&before).unwrap(),
        "7 are gone (0.png, 1.png, 2.png, 3.png, 4.png, …)"
    );
}
