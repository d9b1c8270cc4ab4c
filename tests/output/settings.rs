//! Settings in the PNG files of `sample`, `upscale` and `interpolate`.

use std::path::Path;

use ddpm::report::{ImageSettings, read_png, settings_of_png};

use crate::{Place, printed, said};

const CHECKPOINT: &str = "run/checkpoints/step-00000004.safetensors";

fn settings(place: &Place, name: &str) -> ImageSettings {
    let text = settings_of_png(&place.bytes(name)).unwrap().unwrap();
    ImageSettings::from_json(&text).unwrap()
}

fn pixels(path: &Path) -> ndarray::Array3<u8> {
    read_png(path, 3).unwrap()
}

#[test]
fn an_image_says_how_to_make_it_again() {
    let place = Place::new();
    place.computes(
        "sample run -n 5 --batch 2 --seed 7 --sampler unipc --steps 3 --class odd,even --separate made --out made.png",
    );
    let grid = settings(&place, "made.png");
    let third = settings(&place, "made/00002.png");
    assert_eq!((grid.image, grid.images), (None, Some(5)));
    assert_eq!((third.image, third.images), (Some(2), None));
    assert_eq!(grid.classes.as_deref(), Some("odd,even"));
    let class = third.class.unwrap();
    assert_eq!((class.number, class.name.as_str()), (1, "odd"));
    for of in [&grid, &settings(&place, "made/00004.png")] {
        assert_eq!(
            (of.seed, of.batch, of.device.as_str()),
            (Some(7), Some(2), "cpu")
        );
        assert_eq!(of.ddpm, env!("CARGO_PKG_VERSION"));
        assert_eq!(of.network.file, "step-00000004.safetensors");
        assert_eq!(
            (of.network.step, of.network.weights.as_str()),
            (Some(4), "ema")
        );
        assert_eq!(of.network.fingerprint.len(), 64);
        let sampler = &of.sampler;
        assert_eq!(
            (sampler.name.as_str(), sampler.steps, sampler.order),
            ("unipc", 3, Some(2))
        );
        assert_eq!(sampler.spacing.as_deref(), Some("log-snr"));
        // Nothing of this machine's folders.
        let text = of.to_json().unwrap();
        assert!(!text.contains(place.at("").to_str().unwrap()), "{text}");
    }

    // The commands, given to a shell where these were given, make the same bytes.
    let common = format!("ddpm sample {CHECKPOINT} -n ");
    let again = |of: &ImageSettings| of.command.clone().unwrap();
    assert!(again(&grid).starts_with(&common), "{}", again(&grid));
    for (of, made, original) in [
        (&grid, "samples.png", "made.png"),
        (
            &settings(&place, "made/00002.png"),
            "images/00002.png",
            "made/00002.png",
        ),
    ] {
        place.runs(again(of).strip_prefix("ddpm ").unwrap());
        assert!(
            place.bytes(made) == place.bytes(original),
            "{made}: {}",
            again(of)
        );
    }
    // Image 2 takes no more than the images of its batch.
    assert!(again(&settings(&place, "made/00002.png")).contains("-n 4 "));
    assert!(!place.at("images/00004.png").exists());
}

#[test]
fn settings_can_be_left_out_and_pixels_stay() {
    let place = Place::new();
    let line = "sample run -n 2 --sampler dpmpp-2m --steps 2 --out";
    place.computes(&format!(
        "{line} with.png --trajectory moving.png --strip strip.png"
    ));
    place.computes(&format!("{line} without.png --separate each --no-metadata"));
    assert_eq!(
        pixels(&place.at("with.png")),
        pixels(&place.at("without.png"))
    );
    for name in ["without.png", "each/00001.png"] {
        assert_eq!(settings_of_png(&place.bytes(name)).unwrap(), None, "{name}");
    }
    // The command of the grid makes no animation.
    let mut grid = settings(&place, "with.png");
    assert!(grid.command.take().is_some());
    for name in ["moving.png", "strip.png"] {
        assert_eq!(settings(&place, name), grid, "{name}");
    }
    let stdout = place.computes(&format!("{line} -")).stdout;
    assert!(stdout == place.bytes("with.png"));

    place.computes("interpolate run --latent -n 1 -k 3 --steps 2 --class 0,1 --out row.png");
    let row = settings(&place, "row.png");
    let of = row.interpolation.clone().unwrap();
    assert_eq!((of.rows, of.count, of.latent), (1, 3, true));
    let was = place.bytes("row.png");
    place.runs(&row.command.unwrap()[5..]);
    assert!(place.bytes("interpolation.png") == was);
}

#[test]
fn inspect_shows_the_settings_of_an_image() {
    let place = Place::new();
    place.computes("sample run -n 1 --steps 2 --seed 9 --init-image run/samples/step-00000004-ema.png --strength 0.7");
    let shown = printed(&place.runs("inspect samples.png"));
    for part in [
        "samples.png: PNG image, written by ddpm\n",
        "\n  command: ddpm sample run/checkpoints/step-00000004.safetensors -n 1 ",
        "\n  seed: 9\n",
        "\n  start: image run/samples/step-00000004-ema.png, strength 0.7\n",
    ] {
        assert!(shown.contains(part), "{part} {shown}");
    }
    let json = place.json("inspect samples.png --json");
    assert_eq!(json["settings"]["seed"], 9);
    assert_eq!(json["settings"]["start"]["strength"], 0.7);

    let image = image::RgbImage::from_pixel(2, 2, image::Rgb([1, 2, 3]));
    for name in ["plain.png", "photo.jpg"] {
        image.save(place.at(name)).unwrap();
    }
    let shown = printed(&place.runs("inspect plain.png"));
    assert!(
        shown.contains("no settings") && shown.contains("takes the checkpoint"),
        "{shown}"
    );
    assert_eq!(
        place.json("inspect plain.png --json")["settings"],
        serde_json::Value::Null
    );
    let refused = place.command("inspect photo.jpg").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("of the format JPEG, which holds no settings"));
    std::fs::write(place.at("cut.png"), &place.bytes("samples.png")[..50]).unwrap();
    let refused = place.command("inspect cut.png").output().unwrap();
    assert!(
        said(&refused).starts_with("error: cannot read cut.png: "),
        "{}",
        said(&refused)
    );
}

#[test]
fn inspect_says_what_is_no_image_and_shows_long_text_in_part() {
    let place = Place::new();
    std::fs::write(place.at("empty.png"), b"").unwrap();
    let refused = place.command("inspect empty.png").output().unwrap();
    assert!(
        said(&refused).contains("empty.png has the name of an image and is none"),
        "{}",
        said(&refused)
    );
    let pixel = ndarray::Array3::zeros((1, 1, 1));
    let long = format!("{{\"command\": \"{}\"}}", "x".repeat(100_000));
    let png = ddpm::report::encode_png(pixel.view(), Some(&long)).unwrap();
    std::fs::write(place.at("long.png"), png).unwrap();
    let shown = printed(&place.runs("inspect long.png"));
    assert!(
        shown.len() < 3000 && shown.contains("... (100000 characters; all of them with --json)"),
        "{shown}"
    );
    assert!(printed(&place.runs("inspect long.png --json")).len() > 100_000);
}

/// Whoever made the file chose its text.
#[test]
fn what_an_image_says_cannot_steer_the_terminal() {
    let place = Place::new();
    let pixel = ndarray::Array3::zeros((1, 1, 1));
    let hostile = "{\"a\u{1b}[2J\\nerror: forged\":\"\u{1b}]0;x\\u0007\\u009b\"}";
    let png = ddpm::report::encode_png(pixel.view(), Some(hostile)).unwrap();
    std::fs::write(place.at("x.png"), png).unwrap();
    for line in ["inspect x.png", "inspect x.png --json"] {
        let shown = printed(&place.runs(line));
        assert!(shown.is_ascii() && !shown.contains('\u{1b}'), "{shown:?}");
        assert!(!shown.contains("\nerror: forged"), "{shown:?}");
    }
}
