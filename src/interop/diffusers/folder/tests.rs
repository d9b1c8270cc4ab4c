//! Every layout of a folder: the files used, and the errors for missing ones.

use tempfile::TempDir;

use super::*;
use crate::interop::diffusers::knobs::MAX_BYTES;

const UNET: &str = r#"{"_class_name": "UNet2DModel"}"#;
const INDEX: &str = r#"{"_class_name": "DDPMPipeline", "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}"#;
const ONE: &str = "diffusion_pytorch_model.safetensors";
const SHARDS: &str = r#"{"metadata": {"total_size": 3}, "weight_map": {
    "a": "diffusion_pytorch_model-00001-of-00002.safetensors",
    "b": "diffusion_pytorch_model-00002-of-00002.safetensors",
    "c": "diffusion_pytorch_model-00001-of-00002.safetensors"}}"#;

/// A folder with these files; what ends in `.json` gets the text, the others are empty.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// What is found below `at`, with paths as in the folder: config, weights, scheduler.
fn found(dir: &TempDir, at: &str, raw: bool) -> (String, String, Option<String>) {
    let f = find(&dir.path().join(at), raw).unwrap().unwrap();
    let name = |path: &PathBuf| path.strip_prefix(dir.path()).unwrap().display().to_string();
    (
        name(&f.config),
        name(&f.weights),
        f.scheduler.as_ref().map(name),
    )
}

fn refused(dir: &TempDir, at: &str) -> String {
    format!("{:#}", find(&dir.path().join(at), false).unwrap_err())
}

fn triple(
    config: &str,
    weights: &str,
    scheduler: Option<&str>,
) -> (String, String, Option<String>) {
    (
        config.to_owned(),
        weights.to_owned(),
        scheduler.map(str::to_owned),
    )
}

#[test]
fn a_pipeline_is_found_from_every_end() {
    let weights = format!("unet/{ONE}");
    let dir = folder(&[
        ("model_index.json", INDEX),
        ("unet/config.json", UNET),
        (&weights, ""),
        ("unet/diffusion_pytorch_model.bin", ""),
        ("unet/diffusion_pytorch_model.fp16.safetensors", ""),
        ("scheduler/scheduler_config.json", "{}"),
    ]);
    let whole = triple(
        "unet/config.json",
        &weights,
        Some("scheduler/scheduler_config.json"),
    );
    assert_eq!(found(&dir, "", false), whole);
    assert_eq!(found(&dir, "", true), whole);
    assert_eq!(found(&dir, "unet", false), whole);
    assert_eq!(found(&dir, &weights, false), whole);
    let half = found(&dir, "unet/diffusion_pytorch_model.fp16.safetensors", false);
    assert_eq!(half.1, "unet/diffusion_pytorch_model.fp16.safetensors");
}

#[test]
fn an_old_pipeline_has_everything_at_its_root() {
    let dir = folder(&[
        ("model_index.json", INDEX),
        ("config.json", UNET),
        ("diffusion_pytorch_model.bin", ""),
        ("scheduler_config.json", "{}"),
    ]);
    let whole = triple(
        "config.json",
        "diffusion_pytorch_model.bin",
        Some("scheduler_config.json"),
    );
    assert_eq!(found(&dir, "", false), whole);
    assert_eq!(found(&dir, "diffusion_pytorch_model.bin", false), whole);
}

#[test]
fn a_training_checkpoint_gives_its_average_unless_raw() {
    let dir = folder(&[
        ("checkpoint-500/unet/config.json", UNET),
        (&format!("checkpoint-500/unet/{ONE}"), ""),
        (
            "checkpoint-500/unet_ema/config.json",
            r#"{"_class_name": "UNet2DModel", "decay": 0.99}"#,
        ),
        (&format!("checkpoint-500/unet_ema/{ONE}"), ""),
        ("checkpoint-500/scheduler.bin", ""),
        ("scheduler/scheduler_config.json", "{}"),
    ]);
    let scheduler = Some("scheduler/scheduler_config.json");
    let of = |unet: &str| {
        triple(
            &format!("checkpoint-500/{unet}/config.json"),
            &format!("checkpoint-500/{unet}/{ONE}"),
            scheduler,
        )
    };
    assert_eq!(found(&dir, "checkpoint-500", false), of("unet_ema"));
    assert_eq!(found(&dir, "checkpoint-500", true), of("unet"));
    assert_eq!(found(&dir, "checkpoint-500/unet", false), of("unet"));
    let note = find(&dir.path().join("checkpoint-500"), false)
        .unwrap()
        .unwrap()
        .note;
    assert!(note.unwrap().contains("unet_ema/ is used"));
    fs::remove_dir_all(dir.path().join("checkpoint-500/unet")).unwrap();
    assert_eq!(found(&dir, "checkpoint-500", false), of("unet_ema"));
    let error = find(&dir.path().join("checkpoint-500"), true).unwrap_err();
    assert!(
        error.to_string().contains("looked for unet/config.json"),
        "{error}"
    );
}

#[test]
fn shards_are_found_by_their_index() {
    let names = [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ];
    let index = "diffusion_pytorch_model.safetensors.index.json";
    let dir = folder(&[
        ("config.json", UNET),
        (index, SHARDS),
        (names[0], ""),
        (names[1], ""),
    ]);
    let whole = triple("config.json", index, None);
    assert!(find(dir.path(), false).unwrap().unwrap().sharded);
    assert_eq!(found(&dir, "", false), whole);
    assert_eq!(found(&dir, index, false), whole);
    assert!(refused(&dir, names[0]).contains("one shard of several"));
    fs::remove_file(dir.path().join(names[1])).unwrap();
    let message = refused(&dir, "");
    assert!(
        message.contains("not there") && message.contains(names[1]),
        "{message}"
    );
}

#[test]
fn an_index_leads_nowhere_else() {
    let index = "diffusion_pytorch_model.bin.index.json";
    for file in [
        "../secret.bin",
        "/etc/passwd",
        "a/b.bin",
        "..",
        ".",
        "",
        index,
    ] {
        let map = serde_json::json!({"weight_map": {"a": file}}).to_string();
        let dir = folder(&[("config.json", UNET), (index, &map)]);
        let message = refused(&dir, "");
        assert!(message.contains("want the bare name"), "{message}");
    }
    for (text, said) in [
        ("{}", "no weight_map"),
        (r#"{"weight_map": {}}"#, "weight_map is empty"),
        (r#"{"weight_map": {"a": 7}}"#, "want a name"),
        ("{", "not JSON"),
    ] {
        let message = refused(&folder(&[("config.json", UNET), (index, text)]), "");
        assert!(
            message.contains(said) && message.contains(index),
            "{message}"
        );
    }
}

#[test]
fn a_lone_variant_is_taken_and_several_are_not() {
    let half = "diffusion_pytorch_model.fp16.safetensors";
    let dir = folder(&[
        ("config.json", UNET),
        (half, ""),
        ("diffusion_pytorch_model.fp16.bin", ""),
    ]);
    let f = find(dir.path(), false).unwrap().unwrap();
    assert!(f.weights.ends_with(half) && !f.sharded);
    assert!(f.note.unwrap().contains("variant fp16"));
    fs::write(dir.path().join("diffusion_pytorch_model.non_ema.bin"), "").unwrap();
    let message = refused(&dir, "");
    assert!(message.contains("fp16, non_ema"), "{message}");
}

#[test]
fn a_sharded_variant_is_found() {
    let map = SHARDS.replace("model-", "model.fp16-");
    let dir = folder(&[
        ("config.json", UNET),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", &map),
        (
            "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "",
        ),
        (
            "diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            "",
        ),
    ]);
    let f = find(dir.path(), false).unwrap().unwrap();
    assert!(
        f.sharded
            && f.weights
                .ends_with("diffusion_pytorch_model.safetensors.index.fp16.json")
    );
    assert!(f.note.unwrap().contains("variant fp16"));
}

#[test]
fn pipelines_of_other_networks_are_refused_by_name() {
    let pipeline = |index: &str| {
        refused(
            &folder(&[("model_index.json", index), ("unet/config.json", UNET)]),
            "",
        )
    };
    let stable = r#"{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]}"#;
    let message = pipeline(stable);
    assert!(
        message.contains("StableDiffusionPipeline, with UNet2DConditionModel"),
        "{message}"
    );
    let latent = r#"{"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"], "vqvae": ["diffusers", "VQModel"]}"#;
    let message = pipeline(latent);
    assert!(message.contains("vqvae (VQModel)"), "{message}");
    let none =
        r#"{"_class_name": "PixArtPipeline", "transformer": ["diffusers", "Transformer2DModel"]}"#;
    assert!(pipeline(none).contains("with nothing as its U-Net"));
    // A part that was left out does not count.
    let left_out =
        r#"{"_class_name": "P", "unet": ["diffusers", "UNet2DModel"], "vae": [null, null]}"#;
    assert!(pipeline(left_out).contains("no weights in"));
    assert!(pipeline("[]").contains("model_index.json is not a JSON object"));
    let other = r#"{"_class_name": "UNet2DConditionModel"}"#;
    let message = refused(&folder(&[("unet/config.json", other)]), "");
    assert!(message.contains("is of UNet2DConditionModel"), "{message}");
}

#[test]
fn what_is_missing_is_named() {
    let message = refused(&folder(&[("model_index.json", INDEX)]), "");
    assert!(
        message.contains("looked for unet/config.json and config.json"),
        "{message}"
    );
    let message = refused(&folder(&[("unet/config.json", UNET)]), "");
    assert!(
        message.contains(ONE) && message.contains("diffusion_pytorch_model.bin"),
        "{message}"
    );
    let message = refused(&folder(&[(ONE, "")]), "");
    assert!(message.contains("looked for config.json"), "{message}");
    let message = refused(&folder(&[(&format!("unet_ema/{ONE}"), "")]), "");
    assert!(message.contains("unet_ema holds weights"), "{message}");
    assert!(refused(&folder(&[]), "nothing").contains("cannot open"));
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(MAX_BYTES as usize));
    let message = refused(&folder(&[("config.json", &long)]), "");
    assert!(message.contains("longer than"), "{message}");
}

#[test]
fn what_is_not_diffusers_is_left_to_others() {
    let none = |files: &[(&str, &str)], at: &str| {
        find(&folder(files).path().join(at), false)
            .unwrap()
            .is_none()
    };
    assert!(none(&[("a.txt", "")], ""));
    assert!(none(&[("model.pt", "")], "model.pt"));
    assert!(none(
        &[("model.pt", ""), ("config.json", r#"{"lr": 1}"#)],
        "model.pt"
    ));
    assert!(none(&[("config.json", r#"{"lr": 1}"#)], ""));
    assert!(none(&[("a.txt", ""), ("config.json", UNET)], "a.txt"));
    assert!(none(&[("unet/model.pt", "")], ""));
}

#[test]
fn the_only_weights_under_another_name_are_used_and_several_are_listed() {
    let dir = folder(&[
        ("config.json", UNET),
        ("ck.pt", ""),
        ("optimizer.bin", ""),
        ("random_states_0.pkl", ""),
    ]);
    let whole = triple("config.json", "ck.pt", None);
    assert_eq!(found(&dir, "", false), whole);
    let note = find(dir.path(), false).unwrap().unwrap().note.unwrap();
    assert!(note.contains("ck.pt is used"), "{note}");
    fs::write(dir.path().join("model.safetensors"), "").unwrap();
    assert!(refused(&dir, "").contains("several files of weights: ck.pt, model.safetensors"));
    // The name that diffusers gives goes first.
    fs::write(dir.path().join(ONE), "").unwrap();
    assert_eq!(found(&dir, "", false).1, ONE);
}

#[test]
fn an_average_beside_weights_that_are_named_themselves_is_said() {
    let weights = format!("unet/{ONE}");
    let average = format!("unet_ema/{ONE}");
    let dir = folder(&[
        ("unet/config.json", UNET),
        (&weights, ""),
        ("unet_ema/config.json", UNET),
        (&average, ""),
    ]);
    let note = |at: &str, raw| find(&dir.path().join(at), raw).unwrap().unwrap().note;
    for at in ["unet", weights.as_str()] {
        assert!(
            note(at, false)
                .unwrap()
                .contains("not their average in unet_ema/")
        );
        assert_eq!(note(at, true), None);
    }
    assert_eq!(note("unet_ema", false), None);
}
