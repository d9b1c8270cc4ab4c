use std::path::PathBuf;

use super::*;
use crate::config::LabelsFrom;
use crate::data::DataError;
use crate::data::entry::{Entry, Place};
use crate::data::listing::Said;

fn entries(names: &[&str]) -> Vec<Entry> {
    let entry = |name: &&str| Entry::new(name.as_bytes(), Place::File(PathBuf::new()));
    names.iter().map(entry).collect()
}

fn assigned(from: &LabelsFrom, names: &[&str]) -> Result<Assigned, DataError> {
    let entries = entries(names);
    let entries: Vec<&Entry> = entries.iter().collect();
    assign(from, &entries, &[])
}

/// Names of the classes, and the class of each image.
type Found = (Vec<String>, Vec<Option<u32>>);

fn found(from: &LabelsFrom, names: &[&str]) -> Option<Found> {
    let labels = assigned(from, names).unwrap().labels;
    labels.map(|labels| (labels.names, labels.of))
}

fn classes(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn folders_are_classes_if_most_images_lie_in_one() {
    let auto = |names: &[&str]| found(&LabelsFrom::Auto, names);
    assert_eq!(
        auto(&["a/1.png", "b/x/2.png", "a/3.png"]),
        Some((classes(&["a", "b"]), vec![Some(0), Some(1), Some(0)]))
    );
    // Sorted as text, as torchvision does.
    assert_eq!(
        auto(&["10/1.png", "9/2.png"]),
        Some((classes(&["10", "9"]), vec![Some(0), Some(1)]))
    );
    assert_eq!(auto(&["a/1.png", "a/2.png"]), None);
    // One beside them has no label.
    assert_eq!(
        auto(&["a/1.png", "b/2.png", "3.png"]),
        Some((classes(&["a", "b"]), vec![Some(0), Some(1), None]))
    );
    let folder = |names: &[&str]| found(&LabelsFrom::Folder, names);
    assert_eq!(
        folder(&["a/1.png", "3.png"]),
        Some((classes(&["a"]), vec![Some(0), None]))
    );
    let error = assigned(&LabelsFrom::Folder, &["1.png"]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`data.labels` = folder: no image lies in a folder"),
        "{error}"
    );
    assert_eq!(found(&LabelsFrom::None, &["a/1.png", "b/2.png"]), None);
}

#[test]
fn folders_with_the_fewer_images_are_no_classes_and_this_is_said() {
    let names = ["a/1.png", "b/2.png", "3.png", "4.png", "5.png"];
    let found = assigned(&LabelsFrom::Auto, &names).unwrap();
    assert_eq!(found.labels, None);
    assert_eq!(
        found.notices,
        [
            "note: 2 images lie in 2 folders (a, b) and 3 beside them, so these are not taken for classes; `data.labels` = \
             folder takes them, and leaves the others without a label"
        ]
    );
    let why = |names: &[&str]| assigned(&LabelsFrom::Auto, names).unwrap().why_none;
    let said = |text: &str| Some(text.to_owned());
    assert_eq!(why(&names), said("most of them lie beside the folders"));
    assert_eq!(
        why(&["1.png"]),
        said("none of them lies in a folder of its class")
    );
    assert_eq!(why(&["x/1.png"]), said("one folder alone, x, is no class"));
    let quiet = assigned(&LabelsFrom::Auto, &["x/1.png", "2.png", "3.png"]).unwrap();
    assert!(quiet.notices.is_empty(), "{:?}", quiet.notices);
}

/// Sources with images of these names and labels, and what each says itself.
fn of_sources(sources: &[(&[(&str, &str)], Said)]) -> Assigned {
    let mut all = Vec::new();
    for (source, (images, _)) in (0..).zip(sources) {
        for (name, label) in *images {
            let name = format!("s{source}/{name}");
            let mut entry = Entry::new(name.as_bytes(), Place::File(PathBuf::new()));
            (entry.below, entry.source) = (3, source);
            entry.label = (!label.is_empty()).then(|| (*label).into());
            all.push(entry);
        }
    }
    let entries: Vec<&Entry> = all.iter().collect();
    let said: Vec<Said> = sources.iter().map(|(_, said)| said.clone()).collect();
    assign(&LabelsFrom::Auto, &entries, &said).unwrap()
}

#[test]
fn each_source_is_labelled_by_what_it_holds_and_names_are_merged() {
    let nothing = Said::default;
    let says = |names: &[&str]| Said {
        classes: true,
        names: (!names.is_empty()).then(|| classes(names)),
    };
    let names_and_classes = |found: Assigned| {
        let labels = found.labels.unwrap();
        (labels.names, labels.of, found.notices)
    };
    // The second has folders, the third neither, the fourth says that it has none.
    let folders = [("cat/1.png", ""), ("emu/2.png", ""), ("3.png", "")];
    let numbers = [("1.png", "1"), ("2.png", "0"), ("3.png", "-1")];
    let flat = [("1.png", ""), ("2.png", "")];
    let found = of_sources(&[
        (&numbers, says(&["ant", "cat"])),
        (&folders, nothing()),
        (&flat, nothing()),
        (&folders[..1], says(&[])),
    ]);
    let (names, of, notices) = names_and_classes(found);
    assert_eq!(names, ["ant", "cat", "emu"]);
    let of_first = [Some(1), Some(0), None];
    let of_second = [Some(1), Some(2), None];
    assert_eq!(of[..3], of_first);
    assert_eq!(of[3..6], of_second);
    assert_eq!(of[6..], [None; 3]);
    assert_eq!(
        notices,
        [
            "1 image labelled -1 is without a label, as all other labels are whole numbers",
            "none of the 3 images of s2, s3 has a label",
        ]
    );
    // Lists of names that differ.
    let found = of_sources(&[
        (&numbers[..2], says(&["ant", "cat"])),
        (&numbers[..2], says(&["bee", "cat"])),
    ]);
    let (names, of, _) = names_and_classes(found);
    assert_eq!(names, ["ant", "bee", "cat"]);
    assert_eq!(of, [Some(2), Some(0), Some(2), Some(1)]);
    // The same list is all of it, in its order.
    let same = || (&numbers[..2], says(&["x", "cat", "a"]));
    let found = of_sources(&[same(), same()]);
    assert_eq!(names_and_classes(found).0, ["x", "cat", "a"]);
    // Folders of several sources count together, and one that is a class of another source counts.
    let found = of_sources(&[(&folders[..1], nothing()), (&folders[1..2], nothing())]);
    assert_eq!(names_and_classes(found).0, ["cat", "emu"]);
    let texts = [("1.png", "cat"), ("2.png", "ant")];
    let found = of_sources(&[(&texts, says(&[])), (&folders[..1], nothing())]);
    assert_eq!(names_and_classes(found).1, [Some(1), Some(0), Some(1)]);
    let found = of_sources(&[(&texts, says(&[])), (&folders[1..2], nothing())]);
    let (_, of, notices) = names_and_classes(found);
    assert_eq!(of, [Some(1), Some(0), None]);
    assert_eq!(notices, ["none of the 1 image of s1 has a label"]);
}

#[test]
fn prefixes_end_at_the_first_underscore() {
    assert_eq!(
        found(
            &LabelsFrom::Prefix,
            &["x/dog_1_2.png", "cat_1.png", "y_z/none.png"]
        ),
        Some((classes(&["cat", "dog"]), vec![Some(1), Some(0), None]))
    );
    let error = assigned(&LabelsFrom::Prefix, &["_.png", "a.png"]).unwrap_err();
    assert!(error.to_string().contains("cat_0001.png"), "{error}");
}

/// What a file of this text says of `a/1.png`, `a/2.png` and `3.png`.
fn by_file(name: &str, text: &str) -> Result<Assigned, DataError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    assigned(&LabelsFrom::File(path), &["a/1.png", "a/2.png", "3.png"])
}

#[test]
fn files_of_every_form_say_classes() {
    let numbers = (classes(&["0", "1", "2"]), vec![Some(2), Some(0), Some(0)]);
    let names = (classes(&["cat", "dog"]), vec![Some(1), Some(0), Some(0)]);
    for (name, text, wanted) in [
        ("a.csv", "a/1.png,2\na/2.png,0\n3.png,0\n", &numbers),
        (
            "a.csv",
            "\u{feff}file_name,label\na/1.png,2\n./a/2.png,0\n3.png,0\n",
            &numbers,
        ),
        (
            "a.csv",
            "x,Class,PATH\n,dog,a/1.png\n,\"cat\",\"a/2.png\"\n, cat ,a\\..\n,cat,3.png\n",
            &names,
        ),
        ("a.tsv", "a/1.png\tdog\na/2.png\tcat\n3.png\tcat\n", &names),
        ("labels", "a/1.png\tdog\na/2.png\tcat\n3.png\tcat\n", &names),
        (
            "labels.txt",
            "a/1.png,dog\na/2.png,cat\n3.png,cat\n",
            &names,
        ),
        (
            "dataset.json",
            "{\"labels\": [[\"a/1.png\", 2], [\"a/2.png\", 0], [\"3.png\", 0]]}",
            &numbers,
        ),
        (
            "a.json",
            "{\"a/1.png\": \"dog\", \"a/2.png\": \"cat\", \"3.png\": \"cat\"}",
            &names,
        ),
        (
            "a.json",
            "[{\"file\": \"a/1.png\", \"label\": 2.0}, {\"file\": \"a/2.png\", \"label\": 0}, {\"file\": \"3.png\", \"label\": 0}]",
            &numbers,
        ),
        (
            "metadata.jsonl",
            "{\"file_name\": \"a/1.png\", \"label\": \"dog\", \"x\": 1}\n\n{\"file_name\": \"a/2.png\", \"label\": \"cat\"}\n{\"file_name\": \"3.png\", \"label\": \"cat\"}\n",
            &names,
        ),
        (
            "none",
            "{\"name\": \"a/1.png\", \"class\": 2}\n{\"name\": \"a/2.png\", \"class\": 0}\n{\"name\": \"3.png\", \"class\": 0}\n",
            &numbers,
        ),
        // Other folders, but names that tell.
        ("a.csv", "x/1.png,2\nx/y/2.png,0\nz/3.png,0\n", &numbers),
    ] {
        let labels = by_file(name, text).unwrap().labels.unwrap();
        assert_eq!((labels.names, labels.of), *wanted, "{text}");
    }
    // Numbers and names are names.
    let mixed = by_file("a.csv", "a/1.png,-1\na/2.png,1\n3.png,x\n").unwrap();
    assert_eq!(mixed.labels.unwrap().names, ["-1", "1", "x"]);
    assert!(mixed.notices[0].contains("-1 among the labels is the name of a class"));
}

#[test]
fn what_stands_for_no_label_among_numbers_is_no_class() {
    for (name, text, said) in [
        (
            "a.csv",
            "a/1.png,-1\na/2.png,1\n3.png,0\n",
            "labelled -1 is",
        ),
        ("a.csv", "a/1.png,\na/2.png,1\n3.png,0\n", ""),
        ("a.tsv", "a/1.png\tNaN\na/2.png\t1\n3.png\t0\n", "NaN"),
        ("a.csv", "a/1.png,None\na/2.png,1\n3.png,0\n", "None"),
        (
            "a.json",
            "{\"labels\": [[\"a/1.png\", -1], [\"a/2.png\", 1], [\"3.png\", 0]]}",
            "-1",
        ),
        (
            "a.jsonl",
            "{\"file\": \"a/1.png\", \"label\": null}\n{\"file\": \"a/2.png\", \"label\": 1.0}\n{\"file\": \"3.png\", \"label\": 0.0}\n",
            "",
        ),
        (
            "a.json",
            "{\"a/1.png\": \"null\", \"a/2.png\": 1, \"3.png\": 0}",
            "null",
        ),
    ] {
        let found = by_file(name, text).unwrap();
        let labels = found.labels.unwrap();
        assert_eq!(labels.names, ["0", "1"], "{text}");
        assert_eq!(labels.of, [None, Some(1), Some(0)], "{text}");
        assert_eq!(found.notices.is_empty(), said.is_empty(), "{text}");
        assert!(found.notices.join("").contains(said), "{:?}", found.notices);
    }
    let none = by_file("a.csv", "a/1.png,-1\na/2.png,-1\n3.png,-1\n").unwrap_err();
    assert!(
        none.to_string().contains("none of the images a class"),
        "{none}"
    );
}

#[test]
fn what_a_file_of_labels_lacks_is_told() {
    let found = by_file("a.csv", "a/1.png,cat\na/2.png,\nb.png,cat\nc.png,cat\n").unwrap();
    assert_eq!(
        found.notices,
        ["2 names of the labels are no image: b.png, c.png"]
    );
    let labels = found.labels.unwrap();
    assert_eq!(
        (labels.of.clone(), labels.unlabelled()),
        (vec![Some(0), None, None], 2)
    );
    let images = ["a/1.png", "a/2.png", "3.png"].map(|name| (name.to_owned(), 0));
    assert_eq!(
        labels.lines(&Manifest::new(images)),
        [
            "1 class of 1 image: cat",
            "warning: 2 images are without a label: a/2.png, 3.png",
            "warning: 1 class has a single image: cat",
        ]
    );
    for (name, text, wanted) in [
        (
            "a.csv",
            "b.png,1\n",
            "none of its 1 name is that of an image: it names, for example, b.png, and an image is a/1.png",
        ),
        ("a.csv", "", "none of its 0 names"),
        ("a.csv", "x,y,z\n1,2,3\n", "the first line has x, y, z"),
        ("a.csv", "file,label\na/1.png\n", "line 2: it has 1 columns"),
        ("a.csv", "a/1.png,1\na/1.png,2\n", "a/1.png has two classes"),
        (
            "a.csv",
            "a/1.png,\n3.png,\n",
            "gives none of the images a class",
        ),
        (
            "a.csv",
            "a/1.png,4000000000\n",
            "class 4000000000: numbers below 100000 are wanted",
        ),
        (
            "a.json",
            "{\"labels\": [[\"a/1.png\", [0.5, 0.5]]]}",
            "vectors in place of classes are not read",
        ),
        ("a.json", "{\"labels\": null}", "it has none"),
        ("a.json", "{\"a/1.png\": 0.5}", "0.5 is no class"),
        ("a.json", "{", "EOF"),
        (
            "a.json",
            "[1]",
            "a list of pairs of a name and a class is wanted",
        ),
        (
            "a.jsonl",
            "{\"file_name\": \"a/1.png\"}\n",
            "line 1: {\"file_name\":\"a/1.png\"}: keys such as",
        ),
        ("a.jsonl", "{}\nx\n", "line 1"),
    ] {
        let error = by_file(name, text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
        assert!(error.starts_with("`data.labels` = "), "{error}");
    }
    let missing = assigned(&LabelsFrom::File("/nowhere/x.csv".into()), &["a.png"]).unwrap_err();
    assert!(missing.to_string().contains("No such file"), "{missing}");
}

#[test]
fn numbers_have_the_names_that_the_source_gives_them() {
    let texts = ["1", "0", "1"].map(|text| Some(text.to_owned()));
    let two = classes(&["no", "yes"]);
    let labels = Labels::new(&texts, Numbering::Named(&two)).unwrap();
    assert_eq!((labels.names.clone(), labels.counts()), (two, vec![1, 2]));
    let one = classes(&["no"]);
    let labels = Labels::new(&texts, Numbering::Named(&one)).unwrap();
    assert_eq!(labels.names, ["0", "1"]);
}

#[test]
fn the_classes_are_one_line() {
    let line = |counts: &[usize]| {
        let of = counts
            .iter()
            .enumerate()
            .flat_map(|(class, n)| vec![Some(class as u32); *n]);
        let names = (0..counts.len()).map(|class| format!("c{class}")).collect();
        let labels = Labels {
            names,
            of: of.collect(),
        };
        labels.lines(&Manifest::default())[0].clone()
    };
    assert_eq!(line(&[2, 2]), "2 classes of 2 images each: c0, c1");
    assert_eq!(line(&[3, 2]), "2 classes: c0 3, c1 2");
    assert_eq!(
        line(&[4; 12]),
        "12 classes of 4 images each: c0, c1, c2, c3, c4, …"
    );
    let mut many = [4; 12];
    many[7] = 9;
    assert_eq!(
        line(&many),
        "12 classes of 4 to 9 images: c0 4, c1 4, c2 4, c3 4, c4 4, …"
    );
}

#[test]
fn the_list_of_labels_comes_back_or_is_refused() {
    let labels = Labels {
        names: classes(&["a b", "c\td\n", ""]),
        of: vec![Some(2), None, Some(0)],
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels.tsv");
    labels.write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "ddpm labels 1 3 3\na b\nc\\td\\n\n\n2\n-\n0\n");
    assert_eq!(Labels::read(&path).unwrap(), labels);
    for wrong in [
        "",
        "ddpm labels 2 0 0\n",
        "ddpm labels 1 3\n",
        "ddpm labels 1 1 1\na\n1\n",
        "ddpm labels 1 1 2\na\n0\n",
        "ddpm labels 1 1 1\na\n0",
        "ddpm labels 1 1 1\na\\q\n0\n",
        "ddpm labels 1 9999999999 1\na\n0\n",
    ] {
        std::fs::write(&path, wrong).unwrap();
        assert!(Labels::read(&path).is_err(), "{wrong:?}");
    }
    assert_eq!(labels.differences(&labels.clone()), None);
    let mut other = labels.clone();
    other.of[1] = Some(1);
    assert_eq!(
        other.differences(&labels).unwrap(),
        "1 image is of another class"
    );
    other.names[0] = "x".into();
    assert_eq!(
        other.differences(&labels).unwrap(),
        "3 instead of 3 classes, gone: a b, new: x"
    );
}

#[test]
fn other_images_have_the_numbers_of_ours() {
    let theirs = Labels {
        names: classes(&["cat", "emu", "none", "dog"]),
        of: vec![Some(3), Some(1), Some(0), None],
    };
    let (labels, lost) = theirs.among(&classes(&["ant", "cat", "dog"]));
    assert_eq!(labels.of, [Some(2), None, Some(1), None]);
    assert_eq!((labels.classes(), lost), (3, classes(&["emu"])));
}
