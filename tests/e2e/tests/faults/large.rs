//! Records of megabytes among short ones: each is done right, or costs nobody else anything and is named.

use serde_json::json;

use super::*;

/// So many short records before a long one, and as many behind it.
const SHORT: usize = 20;

/// What three shards are cut into where a record has more bytes than a shard is made of.
const CUT: [u64; 5] = [14, 6, 1, 14, 6];

/// A text of so many bytes.
fn text(bytes: usize) -> String {
    const WORDS: &str = "the parcel did not come ";
    let mut text = WORDS.repeat(bytes.div_ceil(WORDS.len()));
    text.truncate(bytes);
    text
}

/// Lines, of which one has so many bytes.
fn among_short(bytes: usize) -> Vec<u8> {
    let short: String = (0..SHORT).map(|line| format!("record {line}\n")).collect();
    format!("{short}{}\n{short}", text(bytes)).into_bytes()
}

/// How many records each shard of a job had. Each was given to one node once.
fn records(job: &Value) -> Vec<u64> {
    let shards = job["job"]["shards"].as_array().unwrap();
    let records = shards.iter().map(|shard| {
        assert_eq!(micro(shard, "leases"), 1, "{shard}");
        micro(shard, "records")
    });
    records.collect()
}

#[test]
fn a_record_of_ten_mebibytes_is_a_shard_of_its_own_and_comes_back_whole() {
    let setting = Setting::gathers(&among_short(10 << 20));
    let requester = setting.path("requester");
    // As an owner has it who says nothing of sizes and memory.
    let a = setting.provider("a", "", 2);
    let submit = setting.submit(&[ticket(&a)], &["--shards", "3"]);
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    setting.assert_right();
    assert_eq!(records(&job), CUT);
    assert_conserved(&requester, &[a.home()], spent(&job));
}

#[test]
fn a_record_that_nobody_takes_is_named_before_anything_is_spent() {
    let setting = Setting::gathers(&among_short(1));
    let requester = setting.path("requester");
    let input = among_short(17 << 20);
    fs::write(setting.path("lines.txt"), &input).unwrap();
    let a = setting.provider("a", "", 2);
    let submit = setting.submit(&[ticket(&a)], &["--shards", "3"]);
    let ended = run(&requester, &submit).unwrap();
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    for said in [
        "and it takes at most 16777216",
        "line 21 of the input is that long by itself",
    ] {
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
    }
    let jobs = ask(&Built::skep(), &requester, &["job", "status"]).unwrap();
    assert_eq!(jobs["jobs"], json!([]));
    let nobody: [&Path; 0] = [];
    assert_conserved(&requester, &nobody, 0);
    // Where an owner lets it in, it is done like any other, and by nobody else.
    let b = setting.provider("b", "largest-input = \"32 MiB\"\n", 2);
    let submit = setting.submit(&[ticket(&a), ticket(&b)], &["--shards", "3"]);
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    let result = fs::read(setting.path("result.jsonl")).unwrap();
    assert!(result == input, "what comes back is not what was given");
    assert_eq!(records(&job), CUT);
    let spent = spent(&job);
    let earned = assert_conserved(&requester, &[a.home(), b.home()], spent);
    assert_eq!(earned, [0, spent]);
}

#[test]
fn a_record_that_is_too_long_for_a_classifier_costs_no_other_its_label() {
    let setting = Setting::new(SHORT);
    let requester = setting.path("requester");
    let short = fs::read(setting.path("tickets.jsonl")).unwrap();
    let long = json!({"id": "long", "text": text(10 << 20)});
    let input = [&short[..], format!("{long}\n").as_bytes(), &short].concat();
    fs::write(setting.path("tickets.jsonl"), input).unwrap();
    let local = setting.local_run(&requester);
    let a = setting.provider("a", "", 2);
    let submit = setting.submit(&[ticket(&a)], &["--shards", "3"]);
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    let result = fs::read(setting.path("result.jsonl")).unwrap();
    assert!(result == local, "the result differs from a local run");
    assert_eq!(records(&job), CUT);
    assert_conserved(&requester, &[a.home()], spent(&job));
    // What is made of the short ones alone, before it and behind it, and its own reason between them.
    let parsed = |lines: &[u8]| -> Vec<Value> {
        let lines = std::str::from_utf8(lines).unwrap().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let labelled = parsed(&setting.expected);
    assert!(labelled.iter().all(|line| line["label"].is_string()));
    let reason = "the line is longer than 1048576 bytes; shorten it, or cut it into several";
    let mut expected = labelled.clone();
    expected.push(json!({"line": 21, "error": reason}));
    expected.extend(labelled);
    assert_eq!(parsed(&result), expected);
}
