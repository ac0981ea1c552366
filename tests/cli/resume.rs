//! Interrupted runs go on where they stopped, and end as if nothing had happened.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{lines, photos, stderr, vitscope};

const COUNT: usize = 6;

fn args<'a>(photos: &'a Path, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let base = ["heatmap", photos.to_str().unwrap(), "--text", "cat", "--text", "dog", "--format", "npy", "-o", out];
    [&base[..], more].concat()
}

#[test]
fn a_resumed_run_does_no_work_twice_and_ends_as_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), COUNT);
    std::fs::write(photos.join("002.png"), "not a picture").unwrap();
    let index = folder.path().join("out/results.jsonl");
    vitscope(folder.path(), &args(&photos, "out", &[])).code(1);
    let whole = std::fs::read(&index).unwrap();
    let first = lines(&index)[0].clone();
    let ends: Vec<usize> = (0..whole.len()).filter(|&i| whole[i] == b'\n').map(|i| i + 1).collect();
    // After whole images, within an image, and within a line.
    for cut in [0, ends[1], ends[2], ends[5], ends[6], ends[7] + 40, whole.len() - 1, whole.len()] {
        std::fs::write(&index, &whole[..cut]).unwrap();
        // Were the first image explained again, its map would be back.
        let map = folder.path().join("out").join(first["map"].as_str().unwrap());
        let kept = std::fs::read(&map).unwrap();
        if cut >= ends[1] {
            std::fs::remove_file(&map).unwrap();
        }
        let done = vitscope(folder.path(), &args(&photos, "out", &["--resume"])).code(1);
        assert!(std::fs::read(&index).unwrap() == whole, "cut at {cut}: {}", stderr(&done));
        assert_eq!(map.exists(), cut < ends[1], "cut at {cut}");
        std::fs::write(&map, kept).unwrap();
    }
}

#[test]
fn other_options_are_other_results_and_a_repaired_image_loses_its_failure() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), 2);
    let good = std::fs::read(photos.join("001.png")).unwrap();
    std::fs::write(photos.join("001.png"), "broken").unwrap();
    vitscope(folder.path(), &args(&photos, "out", &[])).code(1);
    std::fs::write(photos.join("001.png"), good).unwrap();
    vitscope(folder.path(), &args(&photos, "out", &["--resume"])).code(0);
    let index = folder.path().join("out/results.jsonl");
    assert_eq!(lines(&index).len(), 4);
    assert!(lines(&index).iter().all(|line| line["error"].is_null()));
    vitscope(folder.path(), &args(&photos, "out", &["--resume", "--method", "rollout"])).code(0);
    assert_eq!(lines(&index).len(), 8);
    vitscope(folder.path(), &args(&photos, "out", &["--resume", "--limit", "1"])).code(0);
    assert_eq!(lines(&index).len(), 8);
    vitscope(folder.path(), &args(&photos, "out", &["--limit", "1"])).code(0);
    assert_eq!(lines(&index).len(), 2, "without --resume a run starts afresh");
}

#[test]
fn an_index_that_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), 1);
    std::fs::create_dir(folder.path().join("out")).unwrap();
    let index = folder.path().join("out/results.jsonl");
    std::fs::write(&index, "something else\nentirely\n").unwrap();
    let done = vitscope(folder.path(), &args(&photos, "out", &["--resume"])).code(2);
    assert!(stderr(&done).contains("line 1"));
    assert_eq!(std::fs::read_to_string(&index).unwrap(), "something else\nentirely\n");
}

/// Starts a run, sends it Ctrl-C after its first result, and returns its exit code.
#[cfg(unix)]
fn interrupted(command: &mut Command, index: &Path) -> Option<i32> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !index.is_file() || lines(index).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "no result");
        assert!(child.try_wait().unwrap().is_none_or(|status| status.success()), "ended without a result");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[cfg(unix)]
#[test]
fn a_run_in_the_background_of_a_script_ignores_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), 4);
    let index = folder.path().join("out/results.jsonl");
    // A shell without job control starts `command &` with SIGINT ignored, as the trap does here.
    let mut command = Command::new("sh");
    command.current_dir(folder.path()).args(["-c", "trap '' INT; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_vitscope")]);
    command.args(args(&photos, "out", &["--method", "integrated-gradients:steps=8", "--batch-size", "1"]));
    assert_eq!(interrupted(&mut command, &index), Some(0));
    assert_eq!(lines(&index).len(), 8);
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_batch_and_the_rest_can_follow() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path(), 12);
    let slow = ["--method", "integrated-gradients:steps=8", "--batch-size", "1"];
    let index = folder.path().join("out/results.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitscope"));
    command.current_dir(folder.path()).args(args(&photos, "out", &slow));
    assert_eq!(interrupted(&mut command, &index), Some(130));
    let stopped = lines(&index).len();
    assert!(stopped > 0 && stopped < 24 && stopped.is_multiple_of(2), "{stopped}");

    vitscope(folder.path(), &args(&photos, "out", &[&slow[..], &["--resume"]].concat())).code(0);
    vitscope(folder.path(), &args(&photos, "whole", &slow)).code(0);
    let whole = std::fs::read(folder.path().join("whole/results.jsonl")).unwrap();
    assert!(std::fs::read(&index).unwrap() == whole);
}
