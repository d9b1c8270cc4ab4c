use super::*;

fn line(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        loss: 0.1,
        lr: 1e-3,
        grad_norm: 2.0,
        images_per_sec: 100.0,
        secs: step as f64,
        loss_by_t: None,
    }
}

fn text(steps: impl IntoIterator<Item = u64>) -> String {
    let lines = steps
        .into_iter()
        .map(|step| serde_json::to_string(&line(step)).unwrap() + "\n");
    lines.collect()
}

/// A folder with a metrics.jsonl of these bytes.
fn file(bytes: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn read(path: &Path, name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(path.with_file_name(name)).unwrap()).into_owned()
}

fn files(dir: &tempfile::TempDir) -> usize {
    std::fs::read_dir(dir.path()).unwrap().count()
}

const EXPLAINED: Later = Later::Unsaved { explained_to: 10 };

#[test]
fn a_reopened_file_keeps_only_whole_lines_up_to_the_step() {
    let (dir, path) = file(text([1, 2, 3]) + "{\"step\":4,\"lo");
    let (mut metrics, notes) = Metrics::open(&path, 2, EXPLAINED).unwrap();
    assert_eq!(metrics.earlier_secs, 2.0);
    assert_eq!(
        notes,
        ["step 3 was not saved before the run ended, and is done again"]
    );
    assert_eq!(read(&path, "metrics.jsonl"), text([1, 2]));
    metrics.write(&[line(3), line(4)]).unwrap();
    assert_eq!(read(&path, "metrics.jsonl"), text([1, 2, 3, 4]));
    assert_eq!(last_step(&path).unwrap(), 4);

    let (_, notes) = Metrics::open(&path, 1, Later::LeftBehind).unwrap();
    assert_eq!(notes, [""; 0]);
    assert_eq!(read(&path, "metrics.jsonl"), text([1]));
    assert_eq!(files(&dir), 1);
}

#[test]
fn evaluations_are_kept_and_dropped_with_their_steps() {
    let evaluation = |step| EvaluationMetrics {
        step,
        evaluation: [("fid".to_owned(), 0.1 + step as f64)].into(),
    };
    let (dir, path) = file("");
    let (mut metrics, _) = Metrics::open(&path, 0, EXPLAINED).unwrap();
    for step in 1..=4 {
        metrics.write(&[line(step)]).unwrap();
        if step % 2 == 0 {
            metrics.write_evaluation(&evaluation(step)).unwrap();
        }
    }
    let text = read(&path, "metrics.jsonl");
    assert!(text.ends_with("{\"step\":4,\"evaluation\":{\"fid\":4.1}}\n"));
    assert_eq!(evaluations(&path).unwrap(), [evaluation(2), evaluation(4)]);
    assert_eq!(last_step(&path).unwrap(), 4);
    assert_eq!(of_step(&path, 4).unwrap(), Some(line(4)));
    for (step, kept) in [(3, 1), (2, 1), (1, 0)] {
        let (metrics, notes) = Metrics::open(&path, step, Later::LeftBehind).unwrap();
        assert_eq!((metrics.earlier_secs, notes.len()), (step as f64, 0));
        assert_eq!(evaluations(&path).unwrap().len(), kept);
        assert_eq!(last_step(&path).unwrap(), step);
    }
    assert_eq!(files(&dir), 1);
    assert_eq!(evaluations(&dir.path().join("none")).unwrap(), []);
}

#[test]
fn a_line_that_cannot_be_read_costs_that_line() {
    let long = "x".repeat(200_000);
    let bad = [
        b"{\"step\":3,\"loss\":\xff}\n".to_vec(),
        b"\n".to_vec(),
        format!("{long}\n").into_bytes(),
    ];
    let parts = [
        text([1, 2]).into_bytes(),
        bad[0].clone(),
        text([4]).into_bytes(),
        bad[1].clone(),
        bad[2].clone(),
        text([5, 6]).into_bytes(),
    ];
    let (dir, path) = file(parts.concat());
    let (mut metrics, notes) = Metrics::open(&path, 9, EXPLAINED).unwrap();
    let said = format!(
        "warning: 3 lines of {} cannot be read (numbers 3, 5, 6); they are set aside in metrics-bad.jsonl",
        path.display()
    );
    assert_eq!(notes, [said]);
    assert_eq!(metrics.earlier_secs, 6.0);
    assert_eq!(read(&path, "metrics.jsonl"), text([1, 2, 4, 5, 6]));
    let aside = std::fs::read(path.with_file_name("metrics-bad.jsonl")).unwrap();
    assert!(aside == bad.concat());
    metrics.write(&[line(7)]).unwrap();
    assert_eq!(read(&path, "metrics.jsonl"), text([1, 2, 4, 5, 6, 7]));
    assert_eq!(files(&dir), 2);
}

#[test]
fn lines_that_no_save_interval_explains_are_set_aside() {
    let (_dir, path) = file(text(1..=12) + "torn");
    let (_, notes) = Metrics::open(&path, 4, EXPLAINED).unwrap();
    let said = format!(
        "warning: {} goes on to step 12, but the newest checkpoint that can be used is of step 4; the lines after it are set aside in metrics-after-step-00000004.jsonl",
        path.display()
    );
    assert_eq!(notes, [said]);
    assert_eq!(read(&path, "metrics.jsonl"), text(1..=4));
    assert_eq!(
        read(&path, "metrics-after-step-00000004.jsonl"),
        text(5..=12)
    );
}

#[test]
fn a_line_cut_short_whose_step_is_saved_is_missed() {
    for (kept, missed) in [(4, "step 5"), (3, "steps 4 to 5")] {
        let (_dir, path) = file(text(1..=kept) + "torn");
        let (_, notes) = Metrics::open(&path, 5, EXPLAINED).unwrap();
        let said = format!(
            "warning: the last line of {} is cut short; the file has no numbers of {missed}",
            path.display()
        );
        assert_eq!(notes, [said]);
    }
    let (_dir, path) = file(text(1..=5) + "torn");
    let (_, notes) = Metrics::open(&path, 5, EXPLAINED).unwrap();
    assert_eq!(notes, [""; 0], "its step is done again");
}

#[test]
fn numbers_outside_json_and_a_missing_newline_lose_nothing() {
    // As written where a step took no time.
    let odd =
        r#"{"step":2,"loss":0.5,"lr":0.001,"grad_norm":1.0,"images_per_sec":null,"secs":2.0}"#;
    let whole = text([1]) + odd + "\n" + &text([3]);
    let (_dir, path) = file(whole.trim_end());
    let (mut metrics, notes) = Metrics::open(&path, 3, EXPLAINED).unwrap();
    assert_eq!(notes, [""; 0]);
    metrics.write(&[line(4)]).unwrap();
    assert_eq!(read(&path, "metrics.jsonl"), whole + &text([4]));
    let speed = StepMetrics {
        images_per_sec: f64::INFINITY,
        ..line(2)
    };
    let back: StepMetrics = serde_json::from_str(&serde_json::to_string(&speed).unwrap()).unwrap();
    assert!(back.images_per_sec.is_nan());
}

#[test]
fn a_link_stays_one() {
    let (dir, path) = file(text([1]) + "bad\n" + &text([2, 3]));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    Metrics::open(&link, 2, EXPLAINED).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(read(&path, "metrics.jsonl"), text([1, 2]));
}

#[test]
fn something_else_in_its_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Metrics::open(dir.path(), 2, EXPLAINED)
        .map(drop)
        .unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.ends_with("it is a folder, and a regular file is expected there"),
        "{said}"
    );
    assert!(last_step(dir.path()).is_err());
}

#[test]
fn the_history_of_evaluations_has_the_times_of_their_steps() {
    let evaluation = |step: u64, value: f64| {
        let metrics = EvaluationMetrics {
            step,
            evaluation: BTreeMap::from([("fid".to_owned(), value)]),
        };
        serde_json::to_string(&metrics).unwrap() + "\n"
    };
    let lines = [
        text(1..=2),
        evaluation(2, 5.0),
        // Made up for by the next start.
        evaluation(2, 4.0),
        "{\"step\":3\n\n".into(),
        evaluation(4, 3.0),
        text([5]),
        "{\"step\":6,\"evaluation\":{\"fi".into(),
    ];
    let (_dir, path) = file(lines.concat());
    let found = evaluation_history(&path).unwrap();
    let values: Vec<_> = (found.evaluations.iter())
        .map(|found| {
            let metrics = &found.metrics;
            (metrics.step, metrics.evaluation["fid"], found.secs)
        })
        .collect();
    assert_eq!(values, [(2, 4.0, Some(2.0)), (4, 3.0, None)]);
    assert_eq!((found.last_step, found.bad_lines), (5, 2));
    let nothing = evaluation_history(&path.with_file_name("none")).unwrap();
    assert_eq!(nothing, EvaluationHistory::default());
}

#[test]
fn lines_are_read_on_from_where_the_last_one_ended() {
    let (_dir, path) = file(text([1]) + "{\"step\":2,\"evaluation\":{}}\nodd\n{\"step\":3,");
    let mut found = Vec::new();
    let to = read_lines(&path, 0, &mut |line| found.push(line)).unwrap();
    let evaluation = EvaluationMetrics {
        step: 2,
        evaluation: BTreeMap::new(),
    };
    assert_eq!(
        found,
        [Line::Step(line(1)), Line::Evaluation(evaluation), Line::Bad]
    );
    // The run writes the rest.
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, whole[..to as usize].to_owned() + &text([3, 4])).unwrap();
    found.clear();
    let end = read_lines(&path, to, &mut |line| found.push(line)).unwrap();
    assert_eq!(found, [3, 4].map(|step| Line::Step(line(step))));
    assert_eq!(end, path.metadata().unwrap().len());
    let error = read_lines(&path, end + 1, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("has become shorter"), "{error}");
    let none = path.with_file_name("none");
    assert_eq!(read_lines(&none, 0, &mut |_| unreachable!()).unwrap(), 0);
}

#[test]
fn the_loss_in_parts_of_t_is_kept_with_four_digits() {
    let mut sums = [0.0; PARTS_OF_T];
    let mut images = [0; PARTS_OF_T];
    (sums[0], images[0]) = (100.0 / 3.0, 1);
    (sums[2], images[2]) = (30.0, 3);
    (sums[11], images[11]) = (f64::NAN, 2);
    let by_t = LossByT::of_sums(&sums, &images);
    let mut want = [None; PARTS_OF_T];
    (want[0], want[2]) = (Some(33.33), Some(10.0));
    assert_eq!(by_t, LossByT(want));
    assert_eq!(
        by_t.quarters(),
        [Some((33.33 + 10.0) / 2.0), None, None, None]
    );
    let of_step = StepMetrics {
        loss_by_t: Some(by_t),
        ..line(1)
    };
    let json = serde_json::to_string(&of_step).unwrap();
    let nulls = ",null".repeat(PARTS_OF_T - 3);
    assert!(
        json.ends_with(&format!(r#","loss_by_t":[33.33,null,10.0{nulls}]}}"#)),
        "{json}"
    );
    assert_eq!(serde_json::from_str::<StepMetrics>(&json).unwrap(), of_step);
    // A line of before has none.
    assert!(!text([1]).contains("loss_by_t"));
}
