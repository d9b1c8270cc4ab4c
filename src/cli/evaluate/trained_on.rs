//! What a network's run says of the images that it was trained on: none of them may be taken for held out.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::checkpoint::RunFolder;
use crate::cli::out::say;
use crate::data::{Loaded, Manifest};
use crate::pretrained::Pretrained;
use crate::text::plural;

/// The lists of a run; nothing for a network without its run folder.
pub(in crate::cli) struct TrainedOn {
    trained: Option<Manifest>,
    held_out: Option<Manifest>,
}

impl TrainedOn {
    /// Reads the lists of the run that a network's checkpoint lies in.
    ///
    /// # Errors
    /// Lists that cannot be read.
    pub(in crate::cli) fn of(network: &Pretrained) -> Result<TrainedOn> {
        let folder = network
            .path
            .parent()
            .filter(|dir| dir.ends_with("checkpoints"));
        let run = folder.and_then(Path::parent);
        let Some(run) = run.map(|dir| RunFolder::new(dir.to_owned())) else {
            return Ok(TrainedOn {
                trained: None,
                held_out: None,
            });
        };
        Ok(TrainedOn {
            trained: read(&run.images_path())?,
            held_out: read(&run.held_out_path())?,
        })
    }

    /// Refuses images that would be held out now, and are others than the run held out; `tells` what cannot be known.
    ///
    /// # Errors
    /// Such images; the message says how they differ.
    pub(in crate::cli) fn check_held_out(&self, loaded: &Loaded, tells: bool) -> Result<()> {
        let Some(now) = &loaded.held_out else {
            return Ok(());
        };
        let advice = "put the run's images back, or name others with --data DIR";
        if let Some(before) = &self.held_out
            && !now.manifest.same_images(before)
        {
            let how = now.manifest.differences(before).unwrap_or_default();
            bail!("the images held out of this run have changed: {how}; {advice}");
        }
        let known = self.seen(&now.manifest);
        ensure!(
            known == 0,
            "{known} of the {} that would be held out now were trained on, as the run's images have changed; {advice}",
            plural(now.len() as u64, "image")
        );
        if self.held_out.is_none() && tells {
            say(
                "note: the list of what was held out (held_out.tsv) is not beside this checkpoint, so it is chosen again \
                 from the images as they are now",
            );
        }
        Ok(())
    }

    /// Says if images of a folder that was named are among those trained on.
    pub(super) fn tell(&self, images: &Manifest) {
        let seen = self.seen(images) as u64;
        if seen > 0 {
            say(&format!(
                "note: the network was trained on {seen} of these {}; others tell whether it knows more than those",
                plural(images.len() as u64, "image")
            ));
        }
    }

    fn seen(&self, images: &Manifest) -> usize {
        let Some(trained) = &self.trained else {
            return 0;
        };
        let trained: HashSet<u64> = trained.hashes().collect();
        images
            .hashes()
            .filter(|hash| trained.contains(hash))
            .count()
    }
}

fn read(list: &Path) -> Result<Option<Manifest>> {
    match list.try_exists()? {
        true => Manifest::read(list).map(Some),
        false => Ok(None),
    }
}
