//! What is asked for is made: the same as the command line makes.

use serde_json::json;

use super::client::{Server, ddpm, pixels, png, small, with_classes};

/// A wish with these members instead of the usual ones.
fn wish(changes: serde_json::Value) -> String {
    let mut wish = json!({
        "network": 0, "sampler": "ddim", "steps": 5, "seed": "7", "number": 3, "task": "sample"
    });
    for (key, value) in changes.as_object().unwrap() {
        wish[key] = value.clone();
    }
    wish.to_string()
}

#[test]
fn images_are_those_of_ddpm_sample_and_hold_their_settings() {
    let (small, classes) = (small(), with_classes());
    let server = Server::start(&[&small, &classes]);
    let networks = server.by_page("GET /api/networks", b"").json();
    assert_eq!(networks["networks"][0]["timesteps"], 20);
    assert_eq!(networks["networks"][1]["steps"], json!([4]));
    assert!(networks["networks"][1]["classes"].as_i64().unwrap() > 1);
    let dir = tempfile::tempdir().unwrap();
    let (file, run) = (small.to_str().unwrap(), classes.to_str().unwrap());
    for (number, (changes, command)) in [
        (json!({}), vec![file, "--sampler", "ddim", "--steps", "5", "--seed", "7", "-n", "3"]),
        (
            json!({"sampler": "dpmpp-2m-sde", "steps": null, "seed": u64::MAX}),
            vec![file, "--sampler", "dpmpp-2m-sde", "--seed", "18446744073709551615", "-n", "3"],
        ),
        (
            json!({"network": 1, "sampler": "ddpm", "steps": null, "number": 5, "class": {"number": 1}, "guidance": 2.5, "raw": true, "step": 4}),
            vec![run, "--seed", "7", "-n", "5", "--class", "1", "--guidance", "2.5", "--raw"],
        ),
        (
            json!({"network": 1, "sampler": "unipc", "steps": 3, "number": 4, "shows": "noisy"}),
            vec![run, "--sampler", "unipc", "--steps", "3", "--seed", "7", "-n", "4"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let made = server.make(&wish(changes));
        let out = dir.path().join(format!("{number}.png"));
        let done = ddpm()
            .arg("sample")
            .args(&command)
            .args(["--device", "cpu", "--precision", "f32", "--threads", "1", "--out"])
            .arg(&out)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(pixels(&made), pixels(&std::fs::read(&out).unwrap()), "{command:?}");
        // Dropped on the page again, it fills the form.
        let settings = &server.upload(&made)["settings"];
        let seed = match number {
            1 => "18446744073709551615",
            _ => "7",
        };
        assert_eq!(settings["seed"], seed, "{settings}");
        assert_eq!(settings["raw"], number == 2, "{settings}");
        let guidance = settings["guidance"].as_f64();
        assert_eq!(guidance, (number == 2).then_some(2.5), "{settings}");
    }
}

/// What the form has no place for is named: the images would be others without a word.
#[test]
fn settings_that_the_page_lacks_are_named() {
    let server = Server::start(&[&small()]);
    let pixel = ndarray::Array3::zeros((1, 1, 1));
    let settings = |settings: serde_json::Value| {
        let png = ddpm::report::encode_png(pixel.view(), Some(&settings.to_string())).unwrap();
        server.upload(&png)["settings"].clone()
    };
    let usual = json!({ "name": "ddim", "steps": 9, "spacing": "log-snr", "eta": 0.0 });
    let plain = settings(json!({ "seed": 1, "images": 4, "sampler": usual }));
    assert_eq!(
        (&plain["task"], &plain["left_out"]),
        (&json!("sample"), &json!([]))
    );
    let other = settings(json!({
        "seed": 1,
        "images": 40,
        "sampler": { "name": "ddim", "steps": 9, "spacing": "karras", "eta": 0.5 },
        "guidance": { "scale": 2.0, "interval": [1, 9], "with": { "file": "x\u{202e}.pt" } },
    }));
    let said = other["left_out"].as_array().unwrap();
    assert_eq!(
        said.iter()
            .map(|one| one.as_str().unwrap())
            .collect::<Vec<_>>(),
        [
            "eta 0.5",
            "spacing karras",
            "the time steps that are guided",
            "guidance with x\\u{202e}.pt",
            "40 images, of which the page makes at most 16 at a time",
        ]
    );
    for (task, more) in [
        ("interpolate", json!({ "interpolation": { "to_seed": 9 } })),
        (
            "fill",
            json!({ "start": { "image": "a", "mask": "b", "jump": 3, "resample": 2 } }),
        ),
        (
            "vary",
            json!({ "start": { "image": "a", "strength": 0.5 } }),
        ),
        ("invert", json!({ "start": { "image": "a" } })),
        (
            "sample",
            json!({ "interpolation": { "images": ["a", "b"] } }),
        ),
    ] {
        let found = settings(more);
        assert_eq!(found["task"], task, "{found}");
        let is_whole = task == "interpolate";
        assert_eq!(
            found["left_out"].as_array().unwrap().is_empty(),
            is_whole,
            "{found}"
        );
    }
}

#[test]
fn steps_are_shown_while_they_are_made() {
    let small = small();
    let server = Server::start(&[&small]);
    let mut events = server.events();
    let id = server.add(&wish(
        json!({"sampler": "ddpm", "steps": null, "number": 16}),
    ));
    let (mut shown, mut last) = (0, 0);
    loop {
        let (name, data) = events.next();
        let data: serde_json::Value = serde_json::from_str(&data).unwrap();
        if name == "progress" && data["job"] == id && data["stage"] == "running" {
            let done = data["done"].as_u64().unwrap();
            assert!(done >= last && data["of"] == 20, "{data}");
            last = done;
            if let Some(image) = data["image"].as_str() {
                assert!(image.starts_with("data:image/"), "{image}");
                shown += 1;
            }
        }
        // The last image comes, however fast it was.
        if last == 20 && shown > 0 {
            break;
        }
    }
    let job = server.finish(id);
    assert_eq!(
        (&job["images"], &job["width"], &job["height"]),
        (&json!(16), &json!(8), &json!(8))
    );
    let one = server.by_page(&format!("GET /api/jobs/{id}/images/15"), b"");
    assert_eq!((pixels(&one.body).0, pixels(&one.body).1), (8, 8));
    assert_eq!(
        server
            .by_page(&format!("GET /api/jobs/{id}/images/16"), b"")
            .status,
        404
    );
}

#[test]
fn seeds_are_joined_and_images_varied_filled_in_and_inverted() {
    let small = small();
    let server = Server::start(&[&small]);
    let of_seed = |seed: u64| pixels(&server.make(&wish(json!({"seed": seed, "number": 1})))).2;
    let between = json!({"number": 4, "task": {"interpolate": {"to_seed": 8}}});
    let id = server.add(&wish(between));
    server.finish(id);
    let image = |number: usize| {
        let answer = server.by_page(&format!("GET /api/jobs/{id}/images/{number}"), b"");
        pixels(&answer.body).2
    };
    // Of another batch, and so rounded otherwise: at most a level.
    let near = |a: &[u8], b: &[u8]| a.iter().zip(b).all(|(a, b)| a.abs_diff(*b) <= 1);
    assert!(near(&image(0), &of_seed(7)) && near(&image(3), &of_seed(8)));
    assert!(!near(&image(1), &image(0)) && !near(&image(2), &image(3)));

    let photo = server.upload(&png(20, 10, |x, y| [x as u8 * 12, y as u8 * 25, 90]));
    assert_eq!(
        (&photo["width"], &photo["settings"]),
        (&json!(20), &json!(null))
    );
    let fitted = server.by_page(&format!("GET /api/uploads/{}/for/0", photo["id"]), b"");
    let (width, height, known) = pixels(&fitted.body);
    assert_eq!((width, height), (8, 8));
    let mask = server.upload(&png(8, 8, |x, _| [if x < 4 { 255 } else { 0 }; 3]));
    let filled = server.make(&wish(json!({
        "sampler": "ddpm", "steps": null, "number": 1,
        "task": {"fill": {"image": photo["id"], "mask": mask["id"], "jump": 5, "passes": 2}}
    })));
    let (_, _, filled) = pixels(&filled);
    for (place, (filled, known)) in filled.chunks(3).zip(known.chunks(3)).enumerate() {
        assert!(place % 8 < 4 || filled == known, "{place}");
    }
    assert_ne!(filled, known);

    let varied =
        wish(json!({"number": 2, "task": {"vary": {"image": photo["id"], "strength": 0.3}}}));
    let varied = server.make(&varied);
    assert_eq!(pixels(&varied).0, 16);
    // Dropped again, they ask for the same: the steps before the image cut them down, and as many images between two seeds.
    let asked = &server.upload(&varied)["settings"];
    assert_eq!(
        (&asked["task"], &asked["steps"]),
        (&json!("vary"), &json!(5))
    );
    let one_between = server.by_page(&format!("GET /api/jobs/{id}/images/0"), b"");
    let asked = &server.upload(&one_between.body)["settings"];
    assert_eq!(
        (&asked["number"], &asked["left_out"]),
        (&json!(4), &json!([]))
    );
    let inverted =
        wish(json!({"number": 1, "steps": 20, "task": {"invert": {"image": photo["id"]}}}));
    let id = server.add(&inverted);
    let job = server.finish(id);
    assert!(job["notes"][0].as_str().unwrap().contains("PSNR"), "{job}");
    let figure = server.by_page(&format!("GET /api/jobs/{id}/figure.png"), b"");
    let asked = &server.upload(&figure.body)["settings"];
    assert_eq!(
        (&asked["task"], &asked["steps"]),
        (&json!("invert"), &json!(20))
    );
    assert_eq!(
        asked["left_out"].as_array().unwrap().len(),
        1,
        "the image: {asked}"
    );

    // What cannot be done is said, and is no end of the server.
    let wrong_mask = wish(json!({
        "sampler": "ddpm", "number": 1, "task": {"fill": {"image": photo["id"], "mask": photo["id"], "jump": 5, "passes": 2}}
    }));
    let id = server.add(&wrong_mask);
    let job = server.finish(id);
    assert!(
        job["error"]
            .as_str()
            .unwrap()
            .contains("the mask has 20x10 pixels"),
        "{job}"
    );
}

#[test]
fn jobs_are_cancelled_whether_they_wait_or_run() {
    let small = small();
    let server = Server::start(&[&small]);
    let image = server.upload(&png(8, 8, |_, _| [9, 99, 199]));
    let mask = server.upload(&png(8, 8, |_, _| [255; 3]));
    // 48,000 evaluations: nobody waits for all of them.
    let long = wish(json!({
        "sampler": "ddpm", "steps": null, "number": 16,
        "task": {"fill": {"image": image["id"], "mask": mask["id"], "jump": 1, "passes": 50}}
    }));
    let mut events = server.events();
    let ids: Vec<u64> = (0..3).map(|_| server.add(&long)).collect();
    let last = server.add(&wish(json!({})));
    let cancel = |id: u64| {
        server
            .by_page(&format!("POST /api/jobs/{id}/cancel"), b"")
            .status
    };
    assert_eq!((cancel(ids[1]), cancel(99)), (204, 404));
    loop {
        let (name, data) = events.next();
        let data: serde_json::Value = serde_json::from_str(&data).unwrap();
        if name == "progress" && data["job"] == ids[0] && data["done"].as_u64() > Some(0) {
            break;
        }
    }
    assert_eq!((cancel(ids[0]), cancel(ids[2])), (204, 204));
    assert_eq!(server.finish(last)["state"], "done");
    let states: Vec<String> = (server.jobs().iter())
        .map(|job| job["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["cancelled", "cancelled", "cancelled", "done"]);
    // There are no more places than 16, one of which runs.
    let added = (0..30).map(|_| server.by_page("POST /api/jobs", long.as_bytes()).status);
    let added: Vec<u16> = added.collect();
    assert!(
        added.contains(&429) && added.iter().filter(|status| **status == 201).count() <= 17,
        "{added:?}"
    );
}

#[test]
fn a_job_that_takes_too_long_or_too_much_is_ended() {
    let small = small();
    let server = Server::start_with(&[&small], &["--job-limit", "1ms"]);
    let id = server.add(&wish(json!({"steps": 20})));
    let job = server.finish(id);
    assert!(
        job["error"].as_str().unwrap().contains("--job-limit"),
        "{job}"
    );
    drop(server);
    let server = Server::start_with(&[&small], &["--memory", "0.0001"]);
    let id = server.add(&wish(json!({"number": 16})));
    let job = server.finish(id);
    assert!(
        job["error"].as_str().unwrap().contains("(--memory)"),
        "{job}"
    );
}
