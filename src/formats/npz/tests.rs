use std::io::{self, Write as _};

use ndarray::{Array4, arr0, array};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// An array as NumPy writes it, with this dict and these data.
fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
    let length = (dict.len() as u16).to_le_bytes();
    [NPY_MAGIC, &[1, 0], &length, dict.as_bytes(), data].concat()
}

fn dict(descr: &str, order: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")
}

fn opened(dir: &tempfile::TempDir, bytes: &[u8]) -> Result<NumpyFile> {
    let path = dir.path().join("a.npz");
    std::fs::write(&path, bytes).unwrap();
    open(&path)
}

/// The array of a `.npy` file of these bytes.
fn read_npy(bytes: &[u8]) -> Result<Values> {
    opened(&folder(), bytes)?.read(FIRST_ARRAY, 1 << 20)
}

fn zip_of(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, data) in entries {
        archive.start_file(*name, options).unwrap();
        archive.write_all(data).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// The chain of an error's messages.
fn told<T>(result: Result<T>) -> String {
    let error = result.err().expect("an error");
    let told = format!("{:#}", anyhow::Error::from(error));
    assert!(told.contains("a.npz"), "{told}");
    told
}

#[test]
fn what_is_written_is_read_again() {
    let dir = folder();
    let path = dir.path().join("a.npz");
    let turned = array![[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]].reversed_axes();
    let arrays = [
        ("mu", Values::F64(turned.into_dyn())),
        ("f", Values::F32(array![0.5_f32].into_dyn())),
        ("n", Values::I64(arr0(-7).into_dyn())),
        (
            "empty",
            Values::U8(ndarray::Array2::zeros((0, 3)).into_dyn()),
        ),
        ("name", Values::Text("tf — é".into())),
        ("nothing", Values::Text(String::new())),
    ];
    write(&path, &arrays).unwrap();
    let mut file = open(&path).unwrap();
    assert_eq!(file.names(), arrays.each_ref().map(|(name, _)| *name));
    for (name, values) in &arrays {
        assert_eq!(file.read(name, 1 << 20).unwrap(), *values, "{name}");
    }
    assert_eq!(file.shape("mu").unwrap(), [2, 3]);
    let again = std::fs::read(&path).unwrap();
    write(&path, &arrays).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), again);
}

#[test]
fn headers_of_every_writer_are_understood() {
    let six = [1_i32, 2, 3, 4, 5, 6];
    let little: Vec<u8> = six.iter().flat_map(|x| x.to_le_bytes()).collect();
    let big: Vec<u8> = six.iter().flat_map(|x| x.to_be_bytes()).collect();
    let c_order = Values::I64(array![[1, 2, 3], [4, 5, 6]].into_dyn());
    let fortran = Values::I64(array![[1, 3, 5], [2, 4, 6]].into_dyn());
    for (dict, data, wanted) in [
        (dict("'<i4'", "False", "(2, 3)"), &little, &c_order),
        (dict("'>i4'", "False", "(2, 3)"), &big, &c_order),
        (dict("'<i4'", "True", "(2, 3)"), &little, &fortran),
        // Python 2, other spacing and order, no last comma.
        (dict("\"<i4\"", "False", "(2L, 3L,)"), &little, &c_order),
        (
            "{'shape':(2,3),'fortran_order':False,'descr':'<i4'}  \n".into(),
            &little,
            &c_order,
        ),
    ] {
        assert_eq!(read_npy(&npy(&dict, data)).unwrap(), *wanted, "{dict}");
    }
    // Versions 2 and 3 have a longer length.
    let text = dict("'|u1'", "False", "()");
    for version in [2, 3] {
        let length = (text.len() as u32).to_le_bytes();
        let bytes = [NPY_MAGIC, &[version, 0], &length, text.as_bytes(), &[9]].concat();
        assert_eq!(read_npy(&bytes).unwrap(), Values::U8(arr0(9).into_dyn()));
    }
}

#[test]
fn headers_that_numpy_does_not_write_are_refused() {
    let whole = dict("'<f8'", "False", "(1,)");
    for (dict, said) in [
        (whole.replace("'<f8'", "[('a', '<f8')]"), "type a record"),
        (whole.replace("<f8", "|O"), "type \"|O\""),
        (whole.replace("<f8", "<c16"), "type \"<c16\""),
        (whole.replace("<f8", "<U99999999999999999999"), "type"),
        (
            whole.replace("False", "None"),
            "where True or False should be",
        ),
        (whole.replace("(1,)", "(-1,)"), "where a length should be"),
        (
            whole.replace("(1,)", "(99999999999999999999,)"),
            "where a length",
        ),
        (whole.replace("(1,)", "(1 2)"), "where a comma"),
        (
            whole.replace("(1,)", &format!("({})", "1,".repeat(70))),
            "where a comma",
        ),
        (whole.replace("(1,)", "((1,),)"), "where a length should be"),
        ("(".repeat(9000), "where '{' should be"),
        ("{".repeat(9000), "where a quoted word should be"),
        (
            whole.replace("shape", "sharp"),
            "a key that NumPy does not write",
        ),
        (
            whole.replace("'shape': (1,), ", ""),
            "descr, fortran_order and shape",
        ),
        (String::new(), "where '{' should be"),
        ("{'descr".into(), "a quoted word"),
        ("{'é'é".into(), "':'"),
    ] {
        let error = told(read_npy(&npy(&dict, &[0; 8])));
        assert!(error.contains(said), "{error}: wanted {said}");
        assert!(error.len() < 500, "{error}");
    }
    let long = [NPY_MAGIC, &[2, 0], &u32::MAX.to_le_bytes()].concat();
    assert!(told(read_npy(&long)).contains("takes 4294967295 bytes"));
    let version = [NPY_MAGIC, &[4, 0], &[0; 20]].concat();
    assert!(told(read_npy(&version)).contains("version 4"));
}

#[test]
fn shapes_that_the_data_do_not_have_are_refused() {
    for (shape, bytes) in [
        ("(2,)", 8),
        ("(1,)", 9),
        ("(1,)", 7),
        ("()", 0),
        ("(0,)", 8),
        // Their products overflow, or would as those of an empty array.
        ("(4294967296, 4294967296)", 0),
        ("(9223372036854775807, 9223372036854775807, 0)", 0),
        ("(18446744073709551615,)", 8),
    ] {
        let bytes = npy(&dict("'<f8'", "False", shape), &vec![0; bytes]);
        let error = told(read_npy(&bytes));
        assert!(error.contains("damaged or cut short"), "{error}");
    }
}

#[test]
fn other_files_are_named() {
    let dir = folder();
    for bytes in [&b""[..], b"PK", b"{\"a\": 1}", b"\x89PNG\r\n\x1a\n"] {
        assert!(told(opened(&dir, bytes)).contains("is not a NumPy file"));
    }
    let array = npy(&dict("'|u1'", "False", "(1,)"), &[1]);
    let entries = [("a.npy", &array[..]), ("b.npy", &array)];
    let zip = zip_of(&entries, CompressionMethod::Stored);
    for cut in [10, zip.len() / 2, zip.len() - 1] {
        assert!(told(opened(&dir, &zip[..cut])).contains("directory cannot be read"));
    }
    let mut file = opened(&dir, &zip).unwrap();
    let error = told(file.read("mu", 100));
    assert!(
        error.contains("no array \"mu\"; it has \"a\", \"b\""),
        "{error}"
    );
    // Names that differ in their ending only would be one.
    let twice = zip_of(
        &[("a.npy", &array), ("a", &array)],
        CompressionMethod::Stored,
    );
    assert!(told(opened(&dir, &twice)).contains("of the same name"));
    // A file of torch.save is a zip archive, too.
    let torch = zip_of(&[("x/data.pkl", b"\x80\x02}.")], CompressionMethod::Stored);
    let error = told(opened(&dir, &torch).unwrap().read("x/data.pkl", 9));
    assert!(error.contains("cut short"), "{error}");
    let missing = open(Path::new("/no/such/a.npz")).unwrap_err();
    assert!(format!("{missing}").contains("/no/such/a.npz"));
    assert!(open(dir.path()).is_err());
}

#[test]
fn a_bit_that_flipped_is_found() {
    let dir = folder();
    let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let array = npy(&dict("'|u1'", "False", "(5000,)"), &data);
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let zip = zip_of(&[("a.npy", &array)], method);
        let whole = opened(&dir, &zip).unwrap().read("a", 5000).unwrap();
        assert_eq!(
            whole,
            Values::U8(ndarray::Array1::from_vec(data.clone()).into_dyn())
        );
        let at = zip
            .windows(4)
            .position(|bytes| bytes == b"PK\x01\x02")
            .unwrap()
            - 8;
        let mut bad = zip.clone();
        bad[at] ^= 1;
        let error = told(opened(&dir, &bad).unwrap().read("a", 5000));
        assert!(error.contains("damaged or cut short"), "{error}");
    }
}

#[test]
fn memory_is_taken_for_no_claim() {
    let dir = folder();
    // Limits of the reader.
    let array = npy(&dict("'<f8'", "False", "(4,)"), &[0; 32]);
    let zip = zip_of(&[("a.npy", &array)], CompressionMethod::Deflated);
    let error = told(opened(&dir, &zip).unwrap().read("a", 31));
    assert!(
        error.contains("takes 32 bytes, and at most 31 are wanted"),
        "{error}"
    );
    // An entry of a few bytes whose header and directory say that it unpacks to 2^40.
    let terabyte = 1_u64 << 40;
    let text = dict("'|u1'", "False", &format!("({terabyte},)"));
    let header = npy(&text, &[]);
    let mut zip = zip_of(&[("a.npy", &header)], CompressionMethod::Deflated);
    let size = (u64::from(u32::MAX) - 1) as u32;
    let directory = zip
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02")
        .unwrap();
    zip[directory + 24..directory + 28].copy_from_slice(&size.to_le_bytes());
    let told_size = u64::from(size) - header.len() as u64;
    let honest = npy(&dict("'|u1'", "False", &format!("({told_size:13},)")), &[]);
    assert_eq!(honest.len(), header.len());
    let mut bomb = zip_of(&[("a.npy", &honest)], CompressionMethod::Deflated);
    let directory = bomb
        .windows(4)
        .position(|bytes| bytes == b"PK\x01\x02")
        .unwrap();
    bomb[directory + 24..directory + 28].copy_from_slice(&size.to_le_bytes());
    assert!(told(opened(&dir, &zip).unwrap().read("a", u64::MAX)).contains("cut short"));
    let error = told(opened(&dir, &bomb).unwrap().read("a", u64::MAX));
    assert!(error.contains("packed bytes can hold"), "{error}");
    let error = told(opened(&dir, &bomb).unwrap().images("a"));
    assert!(error.contains("packed bytes can hold"), "{error}");
}

#[test]
fn images_come_some_at_a_time() {
    let dir = folder();
    let data: Vec<u8> = (0..5 * 2 * 3 * 3).collect();
    let wanted = Array4::from_shape_vec((5, 2, 3, 3), data.clone()).unwrap();
    let array = npy(&dict("'|u1'", "False", "(5, 2, 3, 3)"), &data);
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let zip = zip_of(&[("arr_0.npy", &array)], method);
        let mut file = opened(&dir, &zip).unwrap();
        let mut images = file.images("arr_0").unwrap();
        assert_eq!((images.count(), images.hwc()), (5, [2, 3, 3]));
        let mut read = Vec::new();
        while let Some(some) = images.next_images(2).unwrap() {
            read.push(some);
        }
        assert_eq!(
            read.iter().map(|some| some.dim().0).collect::<Vec<_>>(),
            [2, 2, 1]
        );
        let views: Vec<_> = read.iter().map(|some| some.view()).collect();
        assert_eq!(
            ndarray::concatenate(ndarray::Axis(0), &views).unwrap(),
            wanted
        );
    }
    let grey = npy(&dict("'|u1'", "False", "(5, 6, 3)"), &data);
    let mut file = opened(&dir, &grey).unwrap();
    assert_eq!(file.images(FIRST_ARRAY).unwrap().hwc(), [6, 3, 1]);
    for (descr, order, shape) in [
        ("'|u1'", "False", "(5, 3, 3, 2)"),
        ("'|u1'", "False", "(90,)"),
        ("'|u1'", "True", "(5, 2, 3, 3)"),
        ("'|u1'", "False", "(5, 0, 3, 3)"),
        ("'<f4'", "False", "(5, 2, 3, 3)"),
    ] {
        let elements = if shape.contains(" 0,") { 0 } else { 90 };
        let elements = if descr == "'<f4'" { 360 } else { elements };
        let bytes = npy(&dict(descr, order, shape), &vec![0; elements]);
        let error = told(opened(&dir, &bytes).unwrap().images(FIRST_ARRAY));
        assert!(error.contains("wanted"), "{error}");
    }
}
