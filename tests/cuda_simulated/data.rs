//! Images that are not in device memory.

use image::{Rgb, RgbImage};

use crate::lab::Lab;
use crate::tiny::metrics;

/// Images take 1.5 MB, which is more than a quarter of this device.
const SMALL_DEVICE_BYTES: u64 = 6_000_000;
const IMAGES: u32 = 500;
const SIDE: u32 = 32;

const NETWORK: &str =
    "--preset demo --size 32 --base-width 8 --norm-groups 2 --multipliers 1,2 --batch 2";

#[test]
fn images_in_host_memory_or_in_a_mapped_file_train_the_same_without_a_wait() {
    let [small, large] = [Lab::with_memory(SMALL_DEVICE_BYTES), Lab::new()];
    let folder = small.path("images");
    std::fs::create_dir(&folder).unwrap();
    for i in 0..IMAGES {
        let color = Rgb([i as u8, (i / 2) as u8, (3 * i) as u8]);
        let image = RgbImage::from_pixel(SIDE, SIDE, color);
        image.save(folder.join(format!("{i:03}.png"))).unwrap();
    }
    let train = |lab: &Lab, run: &str, steps: u64, more: &str| {
        lab.ok(&format!(
            "train {NETWORK} --device cuda --precision f32 --flip --sample-every 0 --save-every 100 \
             --data {} --run {run} --steps {steps} {more}",
            folder.display()
        ))
    };
    train(&large, "resident", 5, "");
    train(&small, "host", 5, "");
    let short = train(&small, "short", 3, "--cache images.cache");
    let long = train(&small, "mapped", 5, "--cache images.cache");
    let resident = metrics(&large.path("resident"));
    assert_eq!(resident.len(), 5);
    assert_eq!(metrics(&small.path("host")), resident);
    assert_eq!(metrics(&small.path("mapped")), resident);
    assert_eq!(long.waits(), short.waits(), "{}", long.by_name());
    // Images, flips and time steps of two steps, from pinned memory, of which a device copies while the host goes on.
    let pinned = |outcome: &crate::lab::Outcome| outcome.count("h2d_async");
    assert_eq!(pinned(&long) - pinned(&short), 2 * 3);
}
