//! What becomes known of a shard that failed: its requester hears why, as far as there is room for it, and
//! whoever reads the provider's log hears nothing of what was in it.

use skep_tests::written;

use super::*;

#[test]
fn why_a_shard_failed_its_requester_hears_and_no_log_has() {
    let setting = Setting::echoes(1);
    let home = setting.path("requester");
    // It gives all that it read for a reason, and has printed it as well.
    let component = wat::parse_str(written::complaint()).unwrap();
    let complaint = setting.publish_task(&home, "complaint", &component, "");
    let line = |line: usize| {
        format!(
            "record {line}: Anna Example owes {} credits\n",
            line * 7_919
        )
    };
    let input: String = (0..2_500).map(line).collect();
    assert!(input.len() > 100_000);
    fs::write(setting.path("lines.txt"), &input).unwrap();
    let apart = Apart::new(setting.folder.path(), "a");
    let a = setting.provider_by(apart.skep(), "a", "", 1);
    let more = ["--shards", "1", "--deadline", "60 s"];
    let mut submit = setting.submit(&[ticket(&a)], &more);
    submit[2] = complaint;
    let ended = run(&home, &submit).unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let reason =
        "the work failed there: the workload reports: record 0: Anna Example owes 0 credits";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    // Of as many characters as are shown.
    assert!(!ended.stderr.contains("record 9:"), "{}", ended.stderr);

    let pieces = Pieces::of([input.as_str()], &setting.path("package"));
    assert!(pieces.are_in(input.as_bytes()));
    let log = apart.log();
    assert!(log.contains("refused a job"), "{log}");
    assert!(!log.contains("Anna Example"), "{log}");
    assert!(!pieces.are_in(log.as_bytes()), "{log}");
    assert_eq!(pieces.found_in(apart.folder()), None);
    assert_eq!(pieces.found_in(a.home()), None);
}

#[test]
fn an_output_that_is_larger_than_the_owner_allows_fails_with_that_for_a_reason() {
    // Some two thousand bytes, which come back as they are.
    let setting = Setting::echoes(200);
    let requester = setting.path("requester");
    let a = setting.provider("a", "largest-output = \"1 KiB\"\n", 1);
    let whole = setting.submit(&[ticket(&a)], &["--shards", "1", "--deadline", "60 s"]);
    let ended = run(&requester, &whole).unwrap();
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let reason = "over its limit on output: 1 KiB are allowed";
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    assert_conserved(&requester, &[a.home()], 0);
    // In smaller shards there is room for it.
    let parts = setting.submit(&[ticket(&a)], &["--shards", "4"]);
    let job = ask(&Built::skep(), &requester, &parts).unwrap();
    setting.assert_right();
    let spent = micro(&job["job"], "spent_micro");
    assert_conserved(&requester, &[a.home()], spent);
}
