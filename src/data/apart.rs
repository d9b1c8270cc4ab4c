//! Sets images apart that training must not see.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, anyhow};

use super::held_out::{at_least, share};
use super::passed_over::quoted;
use super::{DataError, HeldOut, Labels, Loaded};
use crate::config::HoldOut;
use crate::text::{plural, printable};

/// Sets the images apart that `hold_out` names. `read` reads a folder in the form of `all`.
///
/// # Errors
/// Those of `read`; nothing is left to train on.
pub(super) fn set_apart(
    all: Loaded,
    hold_out: &HoldOut,
    read: impl FnOnce(&Path) -> Result<Loaded>,
) -> Result<Loaded> {
    let hashes: Vec<u64> = all.manifest.hashes().collect();
    let theirs = match hold_out {
        HoldOut::Share(_) | HoldOut::Number(_) => None,
        HoldOut::Folder(dir) => Some(read(dir).map_err(|error| in_folder(error, dir))?),
    };
    let chosen = match (hold_out, &theirs) {
        (_, Some(theirs)) => theirs.manifest.hashes().collect(),
        (HoldOut::Share(percent), None) => share(&hashes, *percent),
        (HoldOut::Number(images), None) => at_least(&hashes, *images),
        (HoldOut::Folder(_), None) => HashSet::new(),
    };
    let is_held = |index: &usize| chosen.contains(&hashes[*index]);
    let (held, kept): (Vec<usize>, Vec<usize>) = (0..hashes.len()).partition(is_held);
    if kept.is_empty() {
        let hold_out = hold_out.to_string();
        let count = hashes.len();
        return Err(DataError::AllHeldOut { hold_out, count }.into());
    }
    let numbers = |indices: &[usize]| indices.iter().map(|index| *index as i64).collect();
    let Loaded {
        mut store,
        mut skipped,
        mut origin,
        manifest,
        passed_over,
        remarks,
        labels,
        why_no_labels,
        notices,
        held_out: _,
    } = all;
    let labels_of = |indices: &[usize]| labels.as_ref().map(|labels| labels.of_images(indices));
    let held_out = match theirs {
        None => {
            origin += &format!(", {} of them held out", held.len());
            HeldOut {
                pixels: store.pixels().shallow_clone(),
                indices: numbers(&held),
                manifest: manifest.of(&held),
                labels: labels_of(&held),
                notices: vec![],
            }
        }
        Some(theirs) => {
            origin += &format!("; {} held out", theirs.origin);
            if !held.is_empty() {
                let same = plural(held.len() as u64, "image");
                origin += &format!(", and {same} of the former with the same pixels");
            }
            let mut notices = theirs.notices();
            let (labels, lost) = in_our_numbers(theirs.labels, labels.as_ref());
            notices.extend(lost);
            let notices = notices.into_iter();
            let notices = notices.map(|notice| format!("images held out: {notice}"));
            skipped.extend(theirs.skipped.iter().cloned());
            HeldOut {
                notices: notices.collect(),
                indices: (0..theirs.manifest.len() as i64).collect(),
                pixels: theirs.store.pixels().shallow_clone(),
                manifest: theirs.manifest,
                labels,
            }
        }
    };
    let kept_labels = labels_of(&kept);
    let kept_manifest = manifest.of(&kept);
    if !held.is_empty() {
        store.keep_only(numbers(&kept));
    }
    Ok(Loaded {
        store,
        skipped,
        passed_over,
        remarks,
        origin,
        manifest: kept_manifest,
        labels: kept_labels,
        why_no_labels,
        notices,
        held_out: Some(held_out),
    })
}

/// Labels of other images in the numbers of `ours`, and what is lost.
fn in_our_numbers(
    theirs: Option<Labels>,
    ours: Option<&Labels>,
) -> (Option<Labels>, Option<String>) {
    let (Some(theirs), Some(ours)) = (theirs, ours) else {
        return (None, None);
    };
    let (labels, lost) = theirs.among(&ours.names);
    let told = (!lost.is_empty()).then(|| {
        let names: Vec<String> = lost.iter().map(|name| printable(name)).collect();
        let verb = if lost.len() == 1 {
            "class is"
        } else {
            "classes are"
        };
        let n = lost.len();
        format!(
            "warning: {n} {verb} none of those trained on, and no labels: {}",
            quoted(&names)
        )
    });
    (Some(labels), told)
}

/// An error of the folder that is held out; a stop stays one.
fn in_folder(error: anyhow::Error, dir: &Path) -> anyhow::Error {
    match error.downcast_ref() {
        Some(DataError::Stopped) => error,
        _ => anyhow!("`data.hold_out` = {}: {error:#}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::manifest::hash;
    use crate::data::{Manifest, PassedOver, Remarks, Store};
    use tch::{Device, Kind, Tensor};

    /// As many images of one pixel, `values` of them.
    fn set(values: &[u8]) -> Loaded {
        let pixels = Tensor::from_slice(values).view([-1, 1, 1, 1]);
        let images = values.iter().enumerate();
        let images = images.map(|(i, value)| (format!("{i}.png"), hash(&[*value])));
        Loaded {
            store: Store::new(pixels, Device::Cpu).unwrap(),
            skipped: vec![],
            passed_over: PassedOver::default(),
            remarks: Remarks::default(),
            origin: format!("{} images", values.len()),
            manifest: Manifest::new(images),
            labels: None,
            why_no_labels: None,
            notices: vec![],
            held_out: None,
        }
    }

    fn apart(values: &[u8], hold_out: HoldOut) -> Result<Loaded> {
        set_apart(set(values), &hold_out, |_| Ok(set(&[7, 9, 250])))
    }

    fn values(tensor: &Tensor) -> Vec<u8> {
        Vec::try_from(tensor.view([-1])).unwrap()
    }

    /// Values that are trained on, and those held out.
    fn sides(loaded: &Loaded) -> (Vec<u8>, Vec<u8>) {
        let held_out = loaded.held_out.as_ref().unwrap();
        let all: Vec<i64> = (0..loaded.store.len() as i64).collect();
        let batch = loaded.store.batch(&all, None).unwrap();
        let kept = ((batch + 1.0) * 127.5).round().to_kind(Kind::Uint8);
        assert_eq!(loaded.manifest.len(), all.len());
        let held = held_out.pixels(0..held_out.len()).unwrap();
        assert_eq!(held.size(), [held_out.len() as i64, 1, 1, 1]);
        assert_eq!(held_out.manifest.len(), held_out.len());
        (values(&kept), values(&held))
    }

    #[test]
    fn a_share_stays_apart_when_images_are_added() {
        let few: Vec<u8> = (0..100).collect();
        let many: Vec<u8> = (0..=255).rev().collect();
        let of = |values: &[u8], percent| sides(&apart(values, HoldOut::Share(percent)).unwrap());
        let (kept, held) = of(&few, 20.0);
        assert!((10..30).contains(&held.len()), "{held:?}");
        assert_eq!(kept.len() + held.len(), 100);
        let (kept_of_many, held_of_many) = of(&many, 20.0);
        assert!(held.iter().all(|value| held_of_many.contains(value)));
        assert!(kept.iter().all(|value| kept_of_many.contains(value)));
        assert!((30..75).contains(&held_of_many.len()), "{held_of_many:?}");
        // A larger share holds out these too.
        let (_, more) = of(&few, 40.0);
        assert!(held.iter().all(|value| more.contains(value)));
        // These places are those of today in all versions to come.
        assert_eq!(of(&few, 3.0).1, FIRST);
    }

    /// Which of 0 to 99 are in the first 3 %.
    const FIRST: [u8; 2] = [9, 16];

    #[test]
    fn the_same_pixels_are_on_the_same_side_and_one_image_at_least_is_held_out() {
        let twice: Vec<u8> = (0..50).chain(0..50).collect();
        for hold_out in [
            HoldOut::Share(10.0),
            HoldOut::Share(1e-9),
            HoldOut::Number(1),
            HoldOut::Number(7),
        ] {
            let (kept, held) = sides(&apart(&twice, hold_out.clone()).unwrap());
            assert!(held.len() >= 2 && held.len() % 2 == 0, "{held:?}");
            assert!(held.iter().all(|value| !kept.contains(value)), "{held:?}");
            match hold_out {
                HoldOut::Number(images) => {
                    assert_eq!(held.len() as u64, images.next_multiple_of(2))
                }
                _ => assert_eq!(kept.len() + held.len(), 100),
            }
        }
    }

    #[test]
    fn a_folder_is_held_out_with_whatever_is_the_same() {
        let loaded = apart(&[1, 7, 2, 7], HoldOut::Folder("there".into())).unwrap();
        assert_eq!(sides(&loaded), (vec![1, 2], vec![7, 9, 250]));
        assert_eq!(loaded.manifest.name(1), Some("2.png"));
        assert_eq!(
            loaded.origin,
            "4 images; 3 images held out, and 2 images of the former with the same pixels"
        );
        let loaded = apart(&[1, 2], HoldOut::Number(1)).unwrap();
        assert_eq!(loaded.origin, "2 images, 1 of them held out");
    }

    #[test]
    fn something_must_be_left_to_train_on() {
        for hold_out in [
            HoldOut::Number(3),
            HoldOut::Number(2),
            HoldOut::Share(99.999_999),
        ] {
            let error = apart(&[5, 6], hold_out).unwrap_err();
            assert!(matches!(
                error.downcast_ref(),
                Some(DataError::AllHeldOut { .. })
            ));
            let said = error.to_string();
            assert!(said.contains("none of the 2 images is left"), "{said}");
        }
        // Not even when all are the same.
        assert!(apart(&[5, 5, 5], HoldOut::Number(1)).is_err());
    }
}
