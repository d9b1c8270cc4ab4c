//! `ddpm serve` on the device: the images of `ddpm sample`, within the memory that it may take.

use crate::client::{Server, pixels};
use crate::lab::Lab;

/// A job for `number` images.
fn wish(number: u64) -> String {
    format!(
        r#"{{"network": 0, "sampler": "ddim", "steps": 4, "seed": 3, "number": {number}, "task": "sample"}}"#
    )
}

#[test]
fn the_page_makes_the_images_of_sample_and_refuses_what_takes_too_much() {
    let lab = Lab::new();
    lab.ok(
        "train --preset demo --size 16 --base-width 8 --norm-groups 2 --batch 8 --builtin-images 16 --timesteps 20 \
         --device cuda --precision f32 --sample-every 0 --steps 2 --run run",
    );
    lab.ok("sample run --sampler ddim --steps 4 --seed 3 -n 2 --device cuda --precision f32 --out made.png");
    let (command, _) =
        lab.on_device("serve run --port 0 --device cuda --precision f32 --memory 0.001");
    let server = Server::of(command);
    let made = server.make(&wish(2));
    let of_sample = std::fs::read(lab.path("made.png")).unwrap();
    assert_eq!(pixels(&made), pixels(&of_sample));
    let refused = server.finish(server.add(&wish(16)));
    let said = refused["error"].as_str().unwrap_or_default();
    assert!(
        refused["state"] == "failed" && said.contains("the server may take 1.0 MiB (--memory)"),
        "{refused}"
    );
}
