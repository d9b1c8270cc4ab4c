//! Networks of every family in the wrappings that trainers save them in.

use std::path::{Path, PathBuf};

use tch::Tensor;

use super::*;
use crate::checkpoint::AttentionOrder;
use crate::formats::pt::write::Item;
use crate::formats::read_state_dict;
use crate::formats::state_dict::{tensor_item, write_pt};
use crate::formats::weights_file::WeightsFile;
use crate::interop::averages;
use crate::interop::{Foreign, Hints, Request};

type State = Vec<(String, Tensor)>;

fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Small files of the families, whose weights stand at the top or at a key.
fn states() -> Vec<(Family, State)> {
    let peer = |name: &str| repo("weights/peers").join(name);
    let at = |path: PathBuf, key: &str| {
        let file = WeightsFile::open(&path).unwrap();
        file.state_dict(file.root.at(key).unwrap()).unwrap()
    };
    let nested = repo("tests/faults/diffusers-nested/ck.pt");
    vec![
        (Family::Diffusers, at(nested, "model")),
        (
            Family::Pesser,
            read_state_dict(&peer("pesser.ckpt")).unwrap(),
        ),
        (Family::W86763777, at(peer("w86763777.pt"), "net_model")),
        (Family::Openai, read_state_dict(&peer("guided.pt")).unwrap()),
    ]
}

fn prefixed(prefix: &str, state: &State) -> State {
    let with = |(name, t): &(String, Tensor)| (format!("{prefix}{name}"), t.shallow_clone());
    state.iter().map(with).collect()
}

fn item(state: &State) -> Item<'static> {
    let items = state
        .iter()
        .map(|(name, t)| (name.clone(), tensor_item(t).unwrap()));
    Item::OrderedDict(items.collect())
}

fn dict(entries: Vec<(&str, Item<'static>)>) -> Item<'static> {
    Item::Dict(
        entries
            .into_iter()
            .map(|(key, item)| (key.to_owned(), item))
            .collect(),
    )
}

/// The path of the only network in a file, and whether its keys are those of `state`.
fn found(folder: &Path, root: &Item, family: Family, state: &State) -> (String, bool) {
    let path = folder.join("wrapped.pt");
    write_pt(&path, root).unwrap();
    let file = WeightsFile::open(&path).unwrap();
    let view = choose(find(&file.root), Weights::Ema, None).unwrap();
    assert_eq!(view.family, family);
    let keys: Keys = state
        .iter()
        .map(|(name, t)| (name.clone(), t.size()))
        .collect();
    let whole = view.keys.iter().all(|(key, _)| view.slot(key).is_some());
    (view.path.clone(), view.keys == keys && whole)
}

#[test]
fn every_family_is_found_in_every_wrapping() {
    let folder = tempfile::tempdir().unwrap();
    for (family, state) in states() {
        // Names and numbers of dimensions are all that matters here.
        let small = |(name, t): (String, Tensor)| {
            (
                name,
                Tensor::from(0f32).view(vec![1i64; t.dim()].as_slice()),
            )
        };
        let state: State = state.into_iter().map(small).collect();
        let check = |root: Item<'static>, place: &str| {
            let (path, whole) = found(folder.path(), &root, family, &state);
            assert_eq!((path.as_str(), whole), (place, true), "{family}");
        };
        for prefix in [
            "",
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model.",
            "unet.",
            "model.diffusion_model.",
            "ema_model.module.",
            "_fsdp_wrapped_module.",
        ] {
            let wrapped = prefixed(prefix, &state);
            check(item(&wrapped), prefix.trim_end_matches('.'));
            // Lightning's, with what it has beside.
            let beside = vec![
                ("epoch", Item::Int(3)),
                ("callbacks", dict(vec![])),
                ("state_dict", item(&wrapped)),
            ];
            let place = format!("state_dict.{prefix}");
            check(dict(beside), place.trim_end_matches('.'));
        }
        for key in ["model", "ema", "ema_model", "model_state_dict", "net_model"] {
            check(dict(vec![(key, item(&state))]), key);
            let inner = dict(vec![("state_dict", item(&prefixed("module.", &state)))]);
            check(
                dict(vec![(key, inner)]),
                &format!("{key}.state_dict.module"),
            );
        }
        // An average beside the raw weights: torch's AveragedModel.
        let mut averaged = prefixed("module.", &state);
        averaged.push(("n_averaged".to_owned(), Tensor::from(3i64)));
        let both = vec![("model", item(&state)), ("averaged_model", item(&averaged))];
        check(dict(both), "averaged_model.module");
        // Wrappers around modules inside.
        let inside = |(name, t): &(String, Tensor)| {
            let (first, rest) = name.split_once('.').unwrap();
            (
                format!("module.{first}._orig_mod.{rest}"),
                t.shallow_clone(),
            )
        };
        check(item(&state.iter().map(inside).collect()), "module");
    }
}

/// The network of `state` below LDM's prefix, and what `LitEma` makes of its names.
fn latent_diffusion(state: &State) -> State {
    let mut both = prefixed("model.diffusion_model.", state);
    for (name, t) in state {
        let name = format!("model_ema.diffusion_model{}", name.replace('.', ""));
        both.push((name, t.to_kind(tch::Kind::Float) + 1.0));
    }
    both.push(("model_ema.decay".to_owned(), Tensor::from(0.99f32)));
    both.push(("model_ema.num_updates".to_owned(), Tensor::from(7i32)));
    both
}

fn guided_hints() -> Hints {
    Hints {
        head_channels: Some(16),
        attention_order: Some(AttentionOrder::Legacy),
        schedule: Some(crate::config::ScheduleKind::Linear),
        timesteps: Some(1000),
        image_size: Some((16, 16)),
        ..Hints::default()
    }
}

#[test]
fn an_average_under_names_without_dots_is_taken_whole_or_said_to_be_passed_over() {
    let (_, guided) = states().pop().unwrap();
    let both = latent_diffusion(&guided);
    let folder = tempfile::tempdir().unwrap();
    let import = |state: &State, raw| {
        let path = folder.path().join("ldm.ckpt");
        write_pt(&path, &dict(vec![("state_dict", item(state))])).unwrap();
        let request = Request {
            raw,
            hints: guided_hints(),
            ..Request::default()
        };
        let foreign = Foreign::examine(&path, &request).unwrap();
        let first = foreign.network().unwrap().params().remove(0);
        let sum = first.tensor.sum(tch::Kind::Double).double_value(&[]);
        let said = format!(
            "{:?} {:?}",
            foreign.report.facts, foreign.report.assumptions
        );
        (sum, first.tensor.numel() as f64, said)
    };
    let (average, values, said) = import(&both, false);
    let (raw, _, raw_said) = import(&both, true);
    assert!(
        (average - raw - values).abs() < 1e-3 * values,
        "{average} {raw} {values}"
    );
    assert!(said.contains("taken (EMA weights)") && said.contains("state_dict.model_ema"));
    assert!(
        raw_said.contains("passed over, at state_dict.model_ema"),
        "{raw_said}"
    );

    // One tensor less, and one of another shape.
    let mut lacking = both.clone_shallow();
    let place = lacking
        .iter()
        .rposition(|(name, _)| name.ends_with("weight"))
        .unwrap();
    let (name, tensor) = lacking.remove(place);
    let mut misshaped = lacking.clone_shallow();
    misshaped.push((name, tensor.unsqueeze(0)));
    for state in [lacking, misshaped] {
        let (sum, _, said) = import(&state, false);
        assert_eq!(sum, raw);
        assert!(
            said.contains("model_ema (") && said.contains("passed over"),
            "{said}"
        );
        assert!(!import(&state, true).2.contains("passed over"));
    }
}

trait CloneShallow {
    fn clone_shallow(&self) -> Self;
}

impl CloneShallow for State {
    fn clone_shallow(&self) -> State {
        prefixed("", self)
    }
}

#[test]
fn an_average_without_names_is_said_to_be_passed_over() {
    let (_, guided) = states().pop().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let list = guided
        .iter()
        .map(|(_, t)| tensor_item(t).unwrap())
        .collect();
    let shadow = dict(vec![
        ("decay", Item::Float(0.99)),
        ("shadow_params", Item::List(list)),
    ]);
    let path = folder.path().join("both.pt");
    write_pt(
        &path,
        &dict(vec![("model", item(&guided)), ("ema", shadow)]),
    )
    .unwrap();
    let said = |raw| {
        let request = Request {
            raw,
            hints: guided_hints(),
            ..Request::default()
        };
        Foreign::examine(&path, &request)
            .unwrap()
            .report
            .assumptions
            .join("\n")
    };
    let count = guided.len();
    let wanted =
        format!("ema ({count} tensors) is no whole average of this network, and is passed over");
    assert!(said(false).contains(&wanted), "{}", said(false));
    assert!(!said(true).contains("passed over"));
}

#[test]
fn words_name_an_average_and_parts_of_words_do_not() {
    let found = |name: &str| {
        let (_, state) = states().remove(0);
        let root = dict(vec![("model", item(&state)), (name, item(&state))]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pt");
        write_pt(&path, &root).unwrap();
        let file = WeightsFile::open(&path).unwrap();
        averages::all_in(&file.root).len()
    };
    assert_eq!(
        ["EMA", "model_ema", "shadow", "swa_state"].map(found),
        [1; 4]
    );
    assert_eq!(["schema", "exp_avg", "online"].map(found), [0; 3]);
}

#[test]
fn an_average_in_a_file_beside_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "model000100.pt",
        "ema_0.9999_000100.pt",
        "ema_0.9999_000200.pt",
        "model.ema.weights",
    ] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let beside = |family, name: &str| averages::beside(family, &folder.path().join(name));
    let named = beside(Family::Openai, "model000100.pt");
    assert_eq!(named.as_deref(), Some("ema_0.9999_000100.pt"));
    assert_eq!(beside(Family::Openai, "model000300.pt"), None);
    assert_eq!(beside(Family::Openai, "ema_0.9999_000100.pt"), None);
    let named = beside(Family::KerasDdpm, "model.weights");
    assert_eq!(named.as_deref(), Some("model.ema.weights"));
    assert_eq!(beside(Family::KerasDdpm, "model.ema.weights"), None);
    assert_eq!(beside(Family::Pesser, "model.weights"), None);
}
