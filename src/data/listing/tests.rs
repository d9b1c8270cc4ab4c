use std::os::unix::fs::symlink;

use super::*;

/// Makes empty files, or with contents, and their folders.
fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }
    dir
}

fn names(dir: &Path, rules: ImageRules) -> (Vec<String>, PassedOver) {
    let listing = list(dir, rules).unwrap();
    assert_eq!(listing.unreadable, []);
    let name = |entry: &Entry| escape(&entry.name);
    let files = listing.entries.iter().map(name).collect();
    (files, listing.passed_over)
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

#[test]
fn usual_names_of_the_formats_are_images_and_others_are_counted() {
    let dir = tree(&[
        ("a.jfif", b""),
        ("b.JPE", b""),
        ("c.png", b""),
        ("c.png.bak", PNG),
        ("d.JPG~", PNG),
        ("e.tif", b""),
        ("f.TIF", b""),
        ("g", b"GIF89a"),
        ("h.0001", b"RIFF1234WEBPVP8 "),
        ("i.site.com_holiday_12", b"\xff\xd8\xff\xe0"),
        ("j. Smith", b"BM1234"),
        ("LICENSE", b"text"),
        ("k.", PNG),
        ("l.12", b""),
    ]);
    let (files, over) = names(dir.path(), ImageRules::V2);
    assert_eq!(
        files,
        [
            "a.jfif",
            "b.JPE",
            "c.png",
            "g",
            "h.0001",
            "i.site.com_holiday_12",
            "j. Smith",
            "k."
        ]
    );
    assert_eq!(
        over.lines(),
        [
            "4 files with other endings are not read: .tif 2, .bak 1, .jpg~ 1",
            "2 files without an ending are not read",
        ]
    );
    // As in version 0.1.
    let (files, over) = names(dir.path(), ImageRules::V1);
    assert_eq!(files, ["c.png"]);
    assert_eq!(over.without_ending, 7);
}

#[test]
fn hidden_files_and_those_of_systems_are_passed_over() {
    let hidden = [
        ".hidden.png",
        ".ipynb_checkpoints/a-checkpoint.png",
        ".Trash-1000/files/b.png",
        "@eaDir/c.png/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/c.png",
        "._c.png",
        "below/._d.png",
        "#recycle/e.png",
        "$RECYCLE.BIN/f.png",
        "$Recycle.Bin/g.png",
        "lost+found/h.png",
        "System Volume Information/i.png",
        "Thumbs.db",
        ".git/objects/0123",
    ];
    let mut all: Vec<(&str, &[u8])> = hidden.iter().map(|name| (*name, PNG)).collect();
    all.extend([
        ("c.png", PNG),
        ("below/d.png", PNG),
        ("lost/found.png", PNG),
    ]);
    let dir = tree(&all);
    // An editor's lock points nowhere.
    symlink("user@host.1234", dir.path().join(".#c.png")).unwrap();
    let (files, over) = names(dir.path(), ImageRules::V2);
    assert_eq!(files, ["below/d.png", "c.png", "lost/found.png"]);
    assert_eq!(
        over.lines(),
        [
            "15 hidden items are passed over: ._* 2, #recycle 1, $RECYCLE.BIN 1, $Recycle.Bin 1, .#c.png 1, …"
        ]
    );
    // The folder itself may be hidden.
    let (files, over) = names(&dir.path().join(".Trash-1000"), ImageRules::V2);
    assert_eq!(
        (files, over.lines().len()),
        (vec!["files/b.png".to_owned()], 0)
    );

    std::fs::remove_file(dir.path().join(".#c.png")).unwrap();
    let (files, _) = names(dir.path(), ImageRules::V1);
    assert_eq!(files.len(), 15);
}

#[test]
fn folders_of_runs_are_passed_over_and_those_like_them_are_not() {
    let dir = tree(&[
        ("a.png", PNG),
        // A run of today, one before its first checkpoint, one whose settings are gone, and one of before the list.
        ("runs/a/config.toml", b""),
        ("runs/a/metrics.jsonl", b""),
        ("runs/a/samples/step-00000001-ema.png", PNG),
        ("runs/b/pictures.tsv", b"ddpm pictures 1 2\n"),
        ("runs/b/samples/step-00000001-ema.png", PNG),
        ("runs/c/config.toml", b""),
        ("runs/c/checkpoints/latest", b"step-00000006.safetensors"),
        ("runs/c/samples/step-00000001-ema.png", PNG),
        // Folders of others.
        ("site/config.toml", b""),
        ("site/static/b.png", PNG),
        ("list/pictures.tsv", b"name\turl\n"),
        ("list/c.png", PNG),
        ("net/checkpoints/d.png", PNG),
        ("net/samples/e.png", PNG),
    ]);
    let (files, over) = names(dir.path(), ImageRules::V2);
    assert_eq!(
        files,
        [
            "a.png",
            "list/c.png",
            "net/checkpoints/d.png",
            "net/samples/e.png",
            "site/static/b.png"
        ]
    );
    assert_eq!(over.runs, ["runs/a", "runs/b", "runs/c"]);
    // A run's own grids, if they are asked for.
    assert_eq!(names(&dir.path().join("runs/a"), ImageRules::V2).0.len(), 1);
    assert_eq!(names(dir.path(), ImageRules::V1).0.len(), 8);
}

#[test]
fn links_back_and_special_files_are_passed_over() {
    let dir = tree(&[("a.png", PNG), ("below/b.png", PNG)]);
    symlink("..", dir.path().join("below/up")).unwrap();
    let pipe = std::process::Command::new("mkfifo")
        .arg(dir.path().join("p.png"))
        .arg(dir.path().join("q"))
        .status();
    assert!(pipe.unwrap().success());
    let (files, over) = names(dir.path(), ImageRules::V2);
    assert_eq!(files, ["a.png", "below/b.png"]);
    assert_eq!(
        over.lines(),
        [
            "1 special file is passed over (pipe, socket or device): p.png",
            "1 link is passed over (to a folder that is read already): below/up",
        ]
    );
}

#[test]
fn a_folder_without_images_says_what_it_has() {
    let said = |files: &[(&str, &[u8])], rules| {
        let dir = tree(files);
        list(dir.path(), rules).unwrap_err().to_string()
    };
    let files: &[(&str, &[u8])] = &[
        ("a.tif", b""),
        ("b.tif", b""),
        ("c.tif", b""),
        (".d.png", b""),
        ("._e.png", b""),
    ];
    let error = said(files, ImageRules::V2);
    assert!(
        error.ends_with(".apng; found 3 .tif files, 2 hidden items"),
        "{error}"
    );
    assert!(said(&[], ImageRules::V2).ends_with("there are no files"));
    assert!(said(&[("q", PNG)], ImageRules::V1).ends_with(".gif; found 1 file without ending"));
}
