//! Checkpoints that an encoded image needs.

use super::*;

fn checkpoints(place: &Place) -> Vec<String> {
    let entries = std::fs::read_dir(place.at("runs/r/checkpoints")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "latest")
        .collect();
    names.sort();
    names
}

#[test]
fn a_pinned_checkpoint_outlives_training() {
    let place = Place::new();
    let said = place.runs("encode runs/r a.png -o x.ddcm");
    let first = "step-00000001.safetensors";
    let pin = checkpoints(&place)
        .into_iter()
        .find(|name| name.ends_with(".pin"))
        .unwrap();
    assert!(pin.starts_with("step-00000001.") && pin.len() == "step-00000001.12345678.pin".len());
    assert!(
        said.contains(&format!(
            "to decode x.ddcm, runs/r/checkpoints/{first} is needed (EMA weights of step 1, network "
        )),
        "{said}"
    );
    assert!(
        said.contains("): training will not remove it, until you delete "),
        "{said}"
    );
    assert!(said.trim_end().ends_with(&pin), "{said}");
    // The same file again has the same pin; a file that is not written has none.
    place.runs("encode runs/r a.png -o x.ddcm --force");
    place.runs("encode runs/r a.png -o unpinned.ddcm --pin=false");
    // Nobody can tell what becomes of a stream.
    place.runs("encode runs/r a.png -o -");
    let mut failing = place.command("encode runs/r no.png -o never.ddcm");
    assert!(!failing.output().unwrap().status.success());
    assert_eq!(checkpoints(&place), [pin.as_str(), first]);
    place.runs("calibrate runs/r -n 4");

    place.train("--steps 2 --keep 1");
    place.runs("calibrate runs/r -n 4");
    let second = "step-00000002.safetensors";
    let measured = |name: &str| format!("{name}.ema.analytic.json");
    assert_eq!(
        checkpoints(&place),
        [&pin, first, &measured(first), second, &measured(second)]
    );
    // It does not count: one other stays. What was measured of that one goes with it.
    place.train("--steps 4 --keep 1");
    let fourth = "step-00000004.safetensors";
    assert_eq!(checkpoints(&place), [&pin, first, &measured(first), fourth]);
    let said = place.runs("decode x.ddcm --out decoded.png");
    assert!(
        said.contains(&format!("model: runs/r/checkpoints/{first}")),
        "{said}"
    );

    std::fs::remove_file(place.at("runs/r/checkpoints").join(pin)).unwrap();
    place.train("--steps 5 --keep 1");
    assert_eq!(checkpoints(&place), ["step-00000005.safetensors"]);
}

#[test]
fn decode_says_which_checkpoint_it_needs() {
    let place = Place::new();
    let said = place.runs("encode runs/r a.png -o x.ddcm --pin=false");
    assert!(
        said.contains("it is not pinned, and training with --keep may remove it"),
        "{said}"
    );
    let (_, network) = said.split_once("network ").unwrap();
    let network = &network[..12];
    place.train("--steps 2");
    // Another file of the run is it.
    place.refuses(
        "decode x.ddcm --model runs/r",
        "x.ddcm was made with another model than runs/r (or with the other of its raw and averaged weights); give \
         --model runs/r/checkpoints/step-00000001.safetensors, which it was made with",
    );
    place.runs("decode x.ddcm --model runs/r/checkpoints/step-00000001.safetensors --out x.png");
    let said = place.runs("decode x.ddcm");
    assert!(
        said.contains("model: runs/r/checkpoints/step-00000001.safetensors"),
        "{said}"
    );
    // Raw weights are found too.
    place.runs("encode runs/r a.png --raw -o raw.ddcm");
    place.refuses(
        "decode raw.ddcm --model runs/r",
        "raw.ddcm was made with another model than runs/r (or with the other of its raw and averaged weights); give \
         --model runs/r/checkpoints/step-00000002.safetensors --raw, which it was made with",
    );
    place.train("--steps 3 --keep 1");
    let needs = format!(
        "r/checkpoints/step-00000001.safetensors (EMA weights of step 1), network {network}"
    );
    place.refuses(
        "decode x.ddcm",
        &format!(
            "x.ddcm was made with {needs}; 2 models in runs/ and beside the file: none is it. Give it with --model CKPT"
        ),
    );
    place.refuses(
        "decode x.ddcm --model runs/r",
        &format!(
            "x.ddcm was made with another model than runs/r (or with the other of its raw and averaged weights); want \
             {needs}"
        ),
    );
    // Outside of a run nothing is pinned.
    place.runs("export runs/r --to weights.safetensors");
    let said = place.runs("encode weights.safetensors a.png -o w.ddcm");
    assert!(said.contains("keep that file"), "{said}");
    place.refuses(
        "encode weights.safetensors a.png -o w.ddcm --pin",
        "--out w.ddcm exists; choose another name, or replace it with --force",
    );
    let mut pinned = place.command("encode weights.safetensors a.png -o v.ddcm --pin");
    let said = String::from_utf8(pinned.output().unwrap().stderr).unwrap();
    assert!(
        said.contains(
            "error: --pin: weights.safetensors is not in the checkpoints of a run, and nothing will remove it"
        ),
        "{said}"
    );
}
