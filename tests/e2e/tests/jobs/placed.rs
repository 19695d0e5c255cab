//! What a job is named by, and where its result goes: what cannot be written there is told before anybody is paid, and
//! where that is found at the end, the job ends all the same and has its result.

use std::process::{Command, Stdio};

use super::*;

/// The same command, with its result in another place.
fn placed_at(mut submit: Vec<String>, output: &str) -> Vec<String> {
    let option = submit.iter().position(|word| word == "--output").unwrap();
    output.clone_into(&mut submit[option + 1]);
    submit
}

#[test]
fn a_result_that_has_no_place_is_told_before_anything_is_begun() {
    let setting = Setting::new(6);
    let requester = setting.path("requester");
    let a = setting.provider("a", "", 1);
    fs::create_dir(setting.path("folder")).unwrap();
    for output in [setting.text("missing/result.jsonl"), setting.text("folder")] {
        let submit = placed_at(setting.submit(&[ticket(&a)], &["--shards", "1"]), &output);
        let ended = run(&requester, &submit).unwrap();
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(&output), "{}", ended.stderr);
        assert!(ended.stderr.contains("--output"), "{}", ended.stderr);
    }
    let jobs = ask(&Built::skep(), &requester, &["job", "status"]).unwrap();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 0, "{jobs}");
    assert_conserved(&requester, &[a.home()], 0);
}

#[test]
fn what_would_be_ignored_or_could_only_fail_is_refused_before_anybody_is_asked() {
    let setting = Setting::new(6);
    let requester = setting.path("requester");
    for (more, why) in [
        (["--", "quick"], "a batch classifier has none"),
        (["--deadline", "0 s"], "--deadline: "),
    ] {
        let ended = run(&requester, &setting.submit(&[], &more)).unwrap();
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
    let jobs = ask(&Built::skep(), &requester, &["job", "status"]).unwrap();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 0, "{jobs}");
    // Neither is there anything to read them in a run.
    let component = Built::component("batch-classifier");
    let arguments = ["run", component.to_str().unwrap(), "--", "quick"];
    let ended = run(&requester, &arguments).unwrap();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("a batch classifier has none"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_result_whose_place_has_gone_is_with_the_job_and_nothing_is_held_for_it() {
    let setting = Setting::new(20);
    let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
    let a = setting.provider("a", "", 1);
    let occupied = Occupied::new(&setting, &a);
    let folder = setting.path("folder");
    fs::create_dir(&folder).unwrap();
    let output = setting.text("folder/result.jsonl");
    let submit = setting.submit(&[ticket(&a)], &["--shards", "2", "--detach"]);
    let job = requester.ask(&placed_at(submit, &output)).unwrap();
    let name = job["job"]["job"].as_str().unwrap().to_owned();
    let watch = ["job", "watch", &name].map(str::to_owned);
    let mut following = Following::start(requester.home(), &watch);
    following.until_said(" shard 0: ");
    fs::remove_dir(&folder).unwrap();
    drop(occupied);
    let said = following.fails();
    assert!(said.contains(&output), "{said}");
    assert!(said.contains("`skep job result`"), "{said}");
    // It has ended, for whoever asks the moment after, and what it did not cost is back.
    let status = requester.ask(&["job", "status", &name]).unwrap();
    assert_eq!(status["job"]["state"], "done", "{status}");
    let reason = status["job"]["reason"].as_str().unwrap();
    assert!(reason.contains(&output), "{reason}");
    assert_conserved(
        requester.home(),
        &[a.home()],
        micro(&status["job"], "spent_micro"),
    );
    let copy = setting.text("copy.jsonl");
    requester
        .ask(&["job", "result", &name, "--output", &copy])
        .unwrap();
    assert_eq!(fs::read(copy).unwrap(), setting.expected);
    // Who looks for it where it was to go is told that it is not there, until it is.
    let ended = run(requester.home(), &watch).unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(&output), "{}", ended.stderr);
    fs::create_dir(&folder).unwrap();
    let again = requester.ask(&watch).unwrap();
    assert!(again["job"]["reason"].is_null(), "{again}");
    assert_eq!(fs::read(&output).unwrap(), setting.expected);
}

#[test]
fn a_name_is_that_of_a_published_package_whatever_a_folder_is_called() {
    let setting = Setting::new(6);
    let requester = setting.path("requester");
    let a = setting.provider("a", "", 1);
    fs::create_dir(setting.path("batch-classifier")).unwrap();
    let mut submit = setting.submit(&[ticket(&a)], &["--shards", "1"]);
    "batch-classifier".clone_into(&mut submit[2]);
    // From where whoever has written the package would ask.
    let ended = Command::new(Built::skep())
        .current_dir(setting.folder.path())
        .arg("--home")
        .arg(&requester)
        .args(&submit)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    setting.assert_right();
    // What is named by its path is no package that others could fetch.
    submit[2] = setting.text("package");
    let ended = run(&requester, &submit).unwrap();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("skep publish"), "{}", ended.stderr);
}
