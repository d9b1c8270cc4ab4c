//! Classes as they are asked for on the command line, and what is said of them.

use anyhow::{Context, Result, bail, ensure};

use crate::config::RunConfig;
use crate::sample::Classes;
use crate::text;

/// Words that stand for no class, whatever classes are called, and stand alone.
const WORDS: [&str; 3] = ["all", "data", "none"];

/// What says that the rest is a name, or a number.
const NAME: &str = "name:";
const NUMBER: &str = "number:";

/// Classes by name or number; a name may hold commas.
///
/// # Errors
/// A class that the network does not have; a word in a list.
pub(super) fn parse(asked: &str, config: &RunConfig) -> Result<Classes> {
    let names = names_of(config);
    match asked {
        "all" => return Ok(Classes::All),
        "none" => return Ok(Classes::None),
        "data" => {
            let conditional = config.conditional.as_ref();
            let counts = conditional.map(|conditional| conditional.images.clone());
            let counts = counts.filter(|counts| !counts.is_empty()).context(
                "--class data: this network does not say how many images of each class it was trained on; want all, for as \
                 many of each",
            )?;
            return Ok(Classes::AsOften(counts));
        }
        _ => {}
    }
    let parts = parts(asked, names);
    let classes: Result<Vec<i64>> = parts.into_iter().map(|part| one(part, config)).collect();
    Ok(Classes::These(classes?))
}

/// The classes of a list; one, if the whole is a name.
fn parts<'a>(asked: &'a str, names: &[String]) -> Vec<&'a str> {
    let whole = asked.strip_prefix(NAME).unwrap_or(asked);
    match place(whole, names) {
        Some(_) => vec![asked],
        None => asked.split(',').map(str::trim).collect(),
    }
}

fn place(name: &str, names: &[String]) -> Option<usize> {
    names.iter().position(|known| known == name)
}

/// One class: a name comes before a number.
fn one(asked: &str, config: &RunConfig) -> Result<i64> {
    let names = names_of(config);
    let (name, number) = match (asked.strip_prefix(NAME), asked.strip_prefix(NUMBER)) {
        (Some(name), _) => (Some(name), None),
        (None, Some(number)) => (None, Some(number)),
        (None, None) => (Some(asked), Some(asked)),
    };
    ensure!(
        !WORDS.contains(&asked),
        "--class: {asked} stands alone, and in a list is no class; a class of that name is {NAME}{asked}"
    );
    let place = name.and_then(|name| place(name, names));
    let number = number.and_then(|number| number.trim().parse().ok());
    if let Some(class) = place.map(|place| place as i64).or(number) {
        return Ok(class);
    }
    match config.model.classes() {
        Some(known) => bail!(
            "--class {asked}: this network has no such class; want {}",
            choices(names, known)
        ),
        None => bail!("--class: this network is not class-conditional; leave it out"),
    }
}

/// What is said of words and numbers that a class is called: which of the two is meant.
pub(super) fn double_meanings(asked: &str, config: &RunConfig) -> Vec<String> {
    let names = names_of(config);
    if WORDS.contains(&asked) {
        let hidden = place(asked, names);
        let told = hidden.map(|_| {
            format!("note: --class {asked} is not the class of that name, which is {NAME}{asked}")
        });
        return told.into_iter().collect();
    }
    let told = |part: &str| {
        let (place, number) = (place(part, names)?, part.parse::<usize>().ok()?);
        let other = names.get(number).filter(|_| number != place)?;
        let other = text::printable(other);
        Some(format!(
            "note: --class {part} is the class of that name, which is number {place}; {NUMBER}{part} is {other}"
        ))
    };
    parts(asked, names).into_iter().filter_map(told).collect()
}

/// What is said of classes of `images` images that the network was trained on no image of.
pub(super) fn untrained(classes: &Classes, images: u64, config: &RunConfig) -> Option<String> {
    let counts = &config.conditional.as_ref()?.images;
    let is_without = |class: &usize| counts.get(*class) == Some(&0);
    let asked: Vec<usize> = match classes {
        Classes::All => (0..counts.len().min(images as usize)).collect(),
        Classes::These(these) => {
            let these = these.iter().take(images as usize);
            these.map(|class| *class as usize).collect()
        }
        Classes::AsOften(_) | Classes::None => vec![],
    };
    let mut without: Vec<usize> = asked.into_iter().filter(is_without).collect();
    without.sort_unstable();
    without.dedup();
    let names: Vec<String> = without.iter().map(|class| name(*class, config)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "warning: the network was trained on no image of {}: what it makes of {} tells nothing",
            text::listed(&names),
            if names.len() == 1 { "it" } else { "them" }
        )
    })
}

/// The name of a class, or its number where the network does not say it.
pub(in crate::cli) fn name(class: usize, config: &RunConfig) -> String {
    let name = names_of(config).get(class);
    name.cloned().unwrap_or_else(|| class.to_string())
}

/// The names of a network's classes, if they are known.
pub(super) fn names_of(config: &RunConfig) -> &[String] {
    let conditional = config.conditional.as_ref();
    conditional.map_or(&[], |conditional| &conditional.classes)
}

/// What may stand behind --class.
pub(super) fn choices(names: &[String], known: i64) -> String {
    let numbers = format!("0 to {}", known - 1);
    if names.is_empty() {
        return numbers;
    }
    format!("{numbers}, or one of {}", text::listed(names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConditionalConfig, ModelKind, Preset};

    fn config(names: &[&str]) -> RunConfig {
        let mut config = Preset::Demo.config();
        config.model = ModelKind::UnetAttention.config([3, 32, 32]);
        config.model.set_classes(Some(4), true);
        config.conditional = (!names.is_empty()).then(|| ConditionalConfig {
            label_dropout: None,
            classes: names.iter().map(|name| (*name).to_owned()).collect(),
            images: vec![1; names.len()],
        });
        config
    }

    fn classes(asked: &str, names: &[&str]) -> Result<Classes, String> {
        parse(asked, &config(names)).map_err(|error| error.to_string())
    }

    #[test]
    fn classes_go_by_name_or_number() {
        let these = |numbers: &[i64]| Ok(Classes::These(numbers.to_vec()));
        let names = ["cat", "dog", "a, b", "1"];
        assert_eq!(classes("dog", &names), these(&[1]));
        assert_eq!(classes("dog, cat,2", &names), these(&[1, 0, 2]));
        assert_eq!(classes("a, b", &names), these(&[2]));
        // A name comes first.
        assert_eq!(classes("1", &names), these(&[3]));
        assert_eq!(classes("1", &[]), these(&[1]));
        assert_eq!(classes("all", &names), Ok(Classes::All));
        assert_eq!(classes("none", &[]), Ok(Classes::None));
        let error = classes("horse", &names).unwrap_err();
        assert!(
            error.contains("0 to 3, or one of cat, dog, a, b, 1"),
            "{error}"
        );
    }

    #[test]
    fn a_class_that_is_called_like_a_word_or_a_number_has_another_way_to_be_named() {
        let these = |numbers: &[i64]| Ok(Classes::These(numbers.to_vec()));
        let names = ["all", "none", "a,none", "1"];
        assert_eq!(classes("none", &names), Ok(Classes::None));
        assert_eq!(classes("name:none", &names), these(&[1]));
        assert_eq!(classes("name:none, name:all,3", &names), these(&[1, 0, 3]));
        assert_eq!(classes("a,none", &names), these(&[2]));
        assert_eq!(classes("name:a,none", &names), these(&[2]));
        assert_eq!(classes("1", &names), these(&[3]));
        assert_eq!(classes("number:1,name:1", &names), these(&[1, 3]));
        for (asked, said) in [
            ("1,none", "none stands alone, and in a list is no class"),
            ("name:2", "no such class"),
            ("number:none", "no such class"),
        ] {
            let error = classes(asked, &names).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let told = |asked: &str| double_meanings(asked, &config(&names)).join("; ");
        assert_eq!(
            told("none"),
            "note: --class none is not the class of that name, which is name:none"
        );
        assert_eq!(
            told("1,0"),
            "note: --class 1 is the class of that name, which is number 3; number:1 is none"
        );
        assert_eq!(told("data") + &told("name:none") + &told("number:1"), "");
        let plain = config(&["0", "1", "2"]);
        assert!(double_meanings("0,1,2", &plain).is_empty());
    }

    #[test]
    fn classes_without_training_images_are_told() {
        let mut config = config(&["cat", "dog", "emu", "fox"]);
        config.conditional.as_mut().unwrap().images = vec![3, 0, 2, 0];
        let told = |classes: &Classes, images| untrained(classes, images, &config);
        let both = "warning: the network was trained on no image of dog, fox: what it makes of them tells nothing";
        assert_eq!(told(&Classes::All, 4).as_deref(), Some(both));
        let one = "warning: the network was trained on no image of dog: what it makes of it tells nothing";
        assert_eq!(told(&Classes::All, 3).as_deref(), Some(one));
        assert_eq!(
            told(&Classes::These(vec![2, 1, 1]), 9).as_deref(),
            Some(one)
        );
        assert_eq!(told(&Classes::These(vec![2, 0]), 9), None);
        assert_eq!(told(&Classes::None, 9), None);
    }
}
