//! What files take on the disk.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use walkdir::WalkDir;

/// Bytes per unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// What all that lies below a folder takes on the disk, in bytes. Links are not followed, a file with several names in
/// it counts once, and what cannot be read counts nothing.
pub fn disk_bytes(folder: &Path) -> u64 {
    let mut seen = HashSet::new();
    let entries = WalkDir::new(folder).follow_root_links(true).into_iter();
    let sizes = entries.flatten().filter_map(|entry| {
        let found = entry.metadata().ok()?;
        let again =
            found.nlink() > 1 && !found.is_dir() && !seen.insert((found.dev(), found.ino()));
        (!again).then_some(found.blocks() * BLOCK_BYTES)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_add_nothing_and_holes_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let (run, outside) = (dir.path().join("run"), dir.path().join("outside"));
        std::fs::create_dir_all(run.join("samples")).unwrap();
        let empty = disk_bytes(&run);
        let megabyte = vec![1; 1 << 20];
        std::fs::write(run.join("samples/a"), &megabyte).unwrap();
        let one = disk_bytes(&run) - empty;
        assert!(one >= 1 << 20, "{one}");
        std::fs::write(&outside, &megabyte).unwrap();
        std::fs::hard_link(run.join("samples/a"), run.join("b")).unwrap();
        std::os::unix::fs::symlink(&outside, run.join("c")).unwrap();
        let sparse = std::fs::File::create(run.join("d")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        // A link itself may take a block.
        assert!(disk_bytes(&run) - empty < one + (1 << 16));
    }
}
