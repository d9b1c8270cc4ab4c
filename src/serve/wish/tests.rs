//! What is asked for, right and wrong.

use super::*;
use crate::config::Preset;

fn json(more: &str, task: &str) -> String {
    format!(
        r#"{{"network": 0, "sampler": "ddim", "seed": "18446744073709551615", "number": 2{more}, "task": {task}}}"#
    )
}

fn read(more: &str, task: &str) -> Result<Wish, String> {
    Wish::read(json(more, task).as_bytes()).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_wish_comes_back_as_it_was_written() {
    for task in [
        r#""sample""#,
        r#"{"interpolate": {"to_seed": 7}}"#,
        r#"{"vary": {"image": 1, "strength": 0.5}}"#,
    ] {
        let wish = read(
            r#", "class": {"number": 3}, "guidance": 2, "raw": true, "steps": 9"#,
            task,
        );
        let wish = wish.unwrap();
        assert_eq!((wish.seed, wish.class), (u64::MAX, Class::Number(3)));
        let again = serde_json::to_vec(&wish).unwrap();
        assert_eq!(Wish::read(&again).unwrap(), wish);
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let sample = r#""sample""#;
    for (more, task, said) in [
        (r#", "more": 1"#, sample, "unknown field"),
        ("", r#""dance""#, "unknown variant"),
        ("", r#"{"invert": {"image": 1}}"#, "one image"),
        ("", r#"{"vary": {"image": 1, "strength": 0}}"#, "strength 0"),
        (
            "",
            r#"{"vary": {"image": 1, "strength": 1.5}}"#,
            "strength 1.5",
        ),
        (
            "",
            r#"{"vary": {"image": -1, "strength": 1}}"#,
            "invalid value",
        ),
        (
            "",
            r#"{"fill": {"image": 1, "mask": 2, "jump": 1, "passes": 1}}"#,
            "sampler ddpm",
        ),
        (r#", "guidance": "x""#, sample, "invalid type"),
        (r#", "class": {"number": 1e99}"#, sample, "invalid type"),
    ] {
        let error = read(more, task).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    let swapped = |from: &str, to: &str| {
        let json = json("", sample).replace(from, to);
        Wish::read(json.as_bytes()).map_err(|error| format!("{error:#}"))
    };
    assert!(
        swapped(r#""number": 2"#, r#""number": 0"#)
            .unwrap_err()
            .contains("want 1 to 16")
    );
    assert!(
        swapped(r#""number": 2"#, r#""number": 17"#)
            .unwrap_err()
            .contains("want 1 to 16")
    );
    assert!(swapped("ddim", "dance").unwrap_err().contains("`sampler`"));
    assert!(swapped(r#""18446744073709551615""#, "-1").is_err());
    assert!(
        swapped("18446744073709551615", "18446744073709551616")
            .unwrap_err()
            .contains("2^64")
    );
    assert!(Wish::read(b"\xff").is_err() && Wish::read(b"").is_err());
}

#[test]
fn what_the_network_does_not_have_is_refused() {
    let mut config = Preset::Demo.config();
    let check = |config: &RunConfig, more: &str, task: &str| {
        read(more, task)
            .unwrap()
            .check(config)
            .map_err(|error| error.to_string())
    };
    let sample = r#""sample""#;
    assert_eq!(check(&config, "", sample), Ok(()));
    let refused = |config: &RunConfig, more: &str| check(config, more, sample).unwrap_err();
    assert!(refused(&config, r#", "steps": 100000"#).contains("want 1 to"));
    assert!(refused(&config, r#", "steps": 0"#).contains("want 1 to"));
    assert!(refused(&config, r#", "guidance": 2"#).contains("guidance"));
    assert!(refused(&config, r#", "guidance": -1"#).contains("guidance"));
    assert!(refused(&config, r#", "class": {"number": 0}"#).contains("not class-conditional"));
    config.model.set_classes(Some(3), true);
    assert_eq!(
        check(
            &config,
            r#", "guidance": 2, "class": {"number": 2}"#,
            sample
        ),
        Ok(())
    );
    assert!(refused(&config, r#", "class": {"number": 3}"#).contains("0 to 2"));
    assert!(refused(&config, r#", "guidance": 2, "class": "none""#).contains("without a class"));
    let ddpm = json("", r#"{"interpolate": {"to_seed": 7}}"#).replace("ddim", "ddpm");
    assert!(Wish::read(ddpm.as_bytes()).unwrap().check(&config).is_err());
}
