//! The checkpoint of the best step of a run, which is kept.

use std::path::Path;

use anyhow::Result;
use fs_err as fs;

use super::newest::step_of;
use crate::fs::write_bytes;

/// Name of the link to the best checkpoint of a run, beside it.
pub const BEST: &str = "best.safetensors";

/// Keeps the checkpoint of the best step, links [`BEST`] to it, and lets go of the one that was it before, unless a
/// file needs that. Without a best step, or if its checkpoint is gone, none is kept so.
///
/// # Errors
/// No permission, or a full disk.
pub(super) fn keep(folder: &Path, best: Option<u64>) -> Result<()> {
    let name = best.map(|step| format!("step-{step:08}.safetensors"));
    let name = name.filter(|name| folder.join(name).exists());
    let pin = name
        .as_ref()
        .map(|name| folder.join(name).with_extension(ENDING));
    if let Some(pin) = pin.as_ref().filter(|pin| !pin.exists()) {
        // Of the form of all pins, and of no network in particular.
        let text = format!("{{\"file\":\"{BEST}\",\"network\":\"\"}}\n");
        write_bytes(pin, text.as_bytes())?;
    }
    let link = folder.join(BEST);
    let linked = std::fs::read_link(&link).ok();
    if linked.as_deref() != name.as_deref().map(Path::new) {
        link_to(&link, name.as_deref())?;
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let of_best = path
            .to_str()
            .is_some_and(|path| path.ends_with(&format!(".{ENDING}")));
        let a_step = step_of(&path.with_extension("").with_extension("safetensors")).is_some();
        if of_best && a_step && Some(&path) != pin.as_ref() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What the name of the best step's pin ends in.
const ENDING: &str = "best.pin";

/// Has a symbolic link name another file, or none. Where links cannot be made there is none.
fn link_to(link: &Path, name: Option<&str>) -> Result<()> {
    // Whatever else has that name is not ours.
    let ours = std::fs::symlink_metadata(link).map_or(true, |found| found.is_symlink());
    if !ours {
        return Ok(());
    }
    match name {
        None => fs::remove_file(link)?,
        Some(name) => {
            let new = link.with_file_name(".tmp-best");
            let _ = std::fs::remove_file(&new);
            if std::os::unix::fs::symlink(name, &new).is_ok() {
                fs::rename(&new, link)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_step_is_pinned_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let files = || {
            let entries = std::fs::read_dir(folder).unwrap();
            let mut names: Vec<String> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !name.starts_with("step-") || name.ends_with(".pin"))
                .collect();
            names.sort();
            names
        };
        for step in 1..3 {
            std::fs::write(folder.join(format!("step-{step:08}.safetensors")), [step]).unwrap();
        }
        std::fs::write(folder.join("step-00000001.1f3a09c2.pin"), "").unwrap();
        let others = "step-00000001.1f3a09c2.pin";
        keep(folder, None).unwrap();
        assert_eq!(files(), [others]);
        for step in [1, 2, 2, 1] {
            keep(folder, Some(step)).unwrap();
            let pin = format!("step-{step:08}.best.pin");
            let mut wanted = vec![BEST, others, &pin];
            wanted.sort_unstable();
            assert_eq!(files(), wanted);
            assert_eq!(std::fs::read(folder.join(BEST)).unwrap(), [step as u8]);
        }
        // Its checkpoint is gone.
        keep(folder, Some(3)).unwrap();
        assert_eq!(files(), [others]);
    }
}
