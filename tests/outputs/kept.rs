//! What is never overwritten: what a command reads, a run's own files, and two outputs of one name.

use super::*;

#[test]
fn what_a_command_reads_is_never_overwritten() {
    let place = Place::new();
    std::fs::create_dir(place.at("below")).unwrap();
    symlink("a.png", place.at("link.png")).unwrap();
    std::fs::hard_link(place.at("a.png"), place.at("hard.png")).unwrap();
    std::fs::copy(place.at("a.png"), place.at("image.ddcm")).unwrap();
    std::fs::create_dir(place.at("images")).unwrap();
    std::fs::copy(place.at("a.png"), place.at("images/00001.png")).unwrap();
    place.runs("export runs/r --to weights.safetensors");
    place.runs("export runs/r --to weights.pt");
    place.runs("encode runs/r a.png -o x.ddcm --pin=false");
    let given = [
        (
            "x",
            Tensor::zeros([1, 3, 8, 8], (Kind::Float, tch::Device::Cpu)),
        ),
        ("t", Tensor::from_slice(&[0i64])),
    ];
    let given = given.map(|(name, tensor)| (name.to_owned(), tensor));
    safetensors::write(
        &place.at("in.safetensors"),
        ("about".into(), String::new()),
        &given,
    )
    .unwrap();

    let read = |out: &str, input: &str| {
        format!("{out} would overwrite {input}, which this command reads; choose another name")
    };
    let start = "sample runs/r -n 2 --init-image";
    for (line, out, input) in [
        (format!("{start} a.png"), "--out a.png", "a.png"),
        (format!("{start} a.png"), "--out ./a.png", "a.png"),
        (format!("{start} a.png"), "--out below/../a.png", "a.png"),
        (format!("{start} a.png"), "--out link.png", "a.png"),
        (format!("{start} a.png"), "--out hard.png", "a.png"),
        (format!("{start} link.png"), "--out a.png", "link.png"),
        (format!("{start} a.png"), "--trajectory a.png", "a.png"),
        (format!("{start} a.png"), "--strip a.png", "a.png"),
        (
            format!("{start} a.png --mask b.png"),
            "--out b.png",
            "b.png",
        ),
        ("invert runs/r a.png".into(), "--out a.png", "a.png"),
        (
            "interpolate runs/r a.png b.png".into(),
            "--out b.png",
            "b.png",
        ),
        (
            "encode runs/r image.ddcm".into(),
            "--out image.ddcm",
            "image.ddcm",
        ),
        (
            "sample weights.safetensors".into(),
            "--out-tensor ./weights.safetensors",
            "weights.safetensors",
        ),
        (
            "sample runs/r --noise in.safetensors".into(),
            "--out-tensor in.safetensors",
            "in.safetensors",
        ),
        (
            "decode x.ddcm --model weights.safetensors".into(),
            "--out-tensor weights.safetensors",
            "weights.safetensors",
        ),
        (
            "predict weights.safetensors --input in.safetensors".into(),
            "--output in.safetensors",
            "in.safetensors",
        ),
        (
            "export weights.safetensors".into(),
            "--to weights.safetensors",
            "weights.safetensors",
        ),
        ("export weights.pt".into(), "--to weights.pt", "weights.pt"),
        (
            "import weights.safetensors".into(),
            "--to weights.safetensors",
            "weights.safetensors",
        ),
    ] {
        place.always_refuses(&format!("{line} {out}"), &read(out, input));
    }
    place.always_refuses(
        &format!("{start} images/00001.png --separate images"),
        &read("--separate images/00001.png", "images/00001.png"),
    );
    // A model that is searched for and found beside the file.
    std::fs::rename(place.at("runs"), place.at("elsewhere")).unwrap();
    let before = place.files();
    let out = place.command("decode x.ddcm --out-tensor weights.safetensors --force");
    let said = String::from_utf8({ out }.output().unwrap().stderr).unwrap();
    let wanted = read("--out-tensor weights.safetensors", "./weights.safetensors");
    assert!(said.ends_with(&format!("error: {wanted}\n")), "{said}");
    assert!(before == place.files());
}

#[test]
fn the_files_of_a_run_are_its_own() {
    let place = Place::new();
    let run = place.at("runs/r").canonicalize().unwrap();
    let run = run.display();
    let newest = "runs/r/checkpoints/step-00000001.safetensors";
    let file = |out: &str| {
        format!("{out} is a place for files of the run {run} alone; choose a name outside of it")
    };
    let folder = |out: &str| {
        format!("{out} is a place for files of the run {run} alone; choose a folder outside of it")
    };
    symlink("runs/r/checkpoints", place.at("link")).unwrap();
    for (line, out) in [
        (
            "export runs/r",
            "--to runs/r/checkpoints/weights.safetensors",
        ),
        ("export runs/r", "--to runs/r/checkpoints/weights.pt"),
        ("export runs/r", "--to link/weights.pt"),
        ("export runs/r", &format!("--to {newest}")),
        ("sample runs/r", &format!("--out-tensor {newest}")),
        (
            "sample runs/r",
            "--out runs/r/samples/step-00000002-ema.png",
        ),
        ("sample runs/r", "--out runs/r/incidents/x.png"),
        ("encode runs/r a.png", "--out runs/r/checkpoints/a.ddcm"),
    ] {
        place.always_refuses(&format!("{line} {out}"), &file(out));
    }
    let itself = format!("--to {newest}");
    place.always_refuses(
        &format!("export {newest} {itself}"),
        &format!(
            "{itself} would overwrite {newest}, which this command reads; choose another name"
        ),
    );
    for (line, out) in [
        ("sample runs/r", "--separate runs/r/checkpoints"),
        ("sample runs/r", "--separate link/new"),
        ("export runs/r", "--to runs/r/checkpoints/pipeline"),
    ] {
        place.always_refuses(&format!("{line} {out}"), &folder(out));
    }
    // The folder of decoded images of a run that is about to begin.
    std::fs::create_dir_all(place.at("runs/new")).unwrap();
    let new = place.at("runs/new").canonicalize().unwrap();
    place.refuses_at_once(
        "train --run runs/new --data . --cache runs/new/metrics.jsonl",
        &format!(
            "--cache runs/new/metrics.jsonl is a place for files of the run {} alone; choose a name outside of it",
            new.display()
        ),
    );
    // A checkpoint that was copied from a run.
    std::fs::copy(place.at(newest), place.at("copy.safetensors")).unwrap();
    place.always_refuses(
        "export runs/r --to copy.safetensors",
        "--to copy.safetensors is a training checkpoint, which is never overwritten; choose another name",
    );
    // Other files may lie in a run's folder.
    place.runs("sample runs/r -n 1 --out runs/r/mine.png");
    place.runs("sample runs/r -n 1 --out runs/r/mine.png --force");
    place.runs("sample runs/r -n 1 --out runs/r/samples/mine.png");
}

#[test]
fn outputs_are_files_of_their_own() {
    let place = Place::new();
    std::fs::create_dir(place.at("d")).unwrap();
    for (line, first, second) in [
        ("sample runs/r", "--out x.png", "--trajectory ./x.png"),
        ("sample runs/r", "--out d/../x.png", "--strip x.png"),
        ("sample runs/r", "--trajectory x.png", "--strip x.png"),
        ("sample runs/r", "--separate d", "--out d/00003.png"),
        ("sample runs/r", "--separate new", "--out new/00003.png"),
    ] {
        place.always_refuses(
            &format!("{line} {first} {second}"),
            &format!("{first} and {second} are the same file; give each its own name"),
        );
    }
    place.runs("sample runs/r -n 2 --separate new --out new/00002.png --trajectory new/way.gif");
    assert_eq!(std::fs::read_dir(place.at("new")).unwrap().count(), 4);
}
