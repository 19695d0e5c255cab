//! Jobs for nodes that show on what hardware they run, and only for those.
//!
//! No machine with such a processor is needed: a program stands in for one, under an authority that
//! the requester of these tests trusts and nobody else does. That real reports and AMD's own
//! authorities are read as AMD's verifier reads them is shown in `host/attest`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use skep_tests::{Built, Node, ask, configure, guest_package, run};

fn openssl(folder: &Path, arguments: &str) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(arguments.split(' '));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
    output.stdout
}

/// Makes an authority with one processor in a folder; returns what its root is trusted by.
fn authority(folder: &Path) -> String {
    fs::create_dir(folder).unwrap();
    let number: Vec<String> = (0..64).map(|byte| format!("{byte:02x}")).collect();
    let amd = "1.3.6.1.4.1.3704.1";
    let extensions = format!(
        "{amd}.2=ASN1:IA5STRING:Milan-B0\n{amd}.3.1=ASN1:INTEGER:3\n{amd}.3.2=ASN1:INTEGER:0\n\
         {amd}.3.3=ASN1:INTEGER:8\n{amd}.3.8=ASN1:INTEGER:115\n{amd}.4=DER:{}\n",
        number.join(":")
    );
    fs::write(folder.join("extensions"), extensions).unwrap();
    fs::write(folder.join("none"), "").unwrap();
    let pss = "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48";
    for name in ["ark", "ask"] {
        openssl(folder, &format!("genrsa -out {name}.key 2048"));
    }
    openssl(
        folder,
        "ecparam -name secp384r1 -genkey -noout -out vcek.key",
    );
    openssl(
        folder,
        &format!("req -x509 -new -key ark.key {pss} -subj /CN=ARK-Tests -days 30 -out ark.pem"),
    );
    for (name, issuer, extensions) in [("ask", "ark", "none"), ("vcek", "ask", "extensions")] {
        openssl(
            folder,
            &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key {pss} -set_serial 7 \
                 -days 30 -extfile {extensions} -out {name}.pem"
            ),
        );
    }
    for name in ["ark", "ask", "vcek"] {
        openssl(
            folder,
            &format!("x509 -in {name}.pem -outform der -out {name}.der"),
        );
    }
    openssl(folder, "x509 -in ark.pem -noout -pubkey -out ark.pub");
    openssl(folder, "pkey -pubin -in ark.pub -outform der -out ark.spki");
    let digest = openssl(folder, "dgst -sha256 -r ark.spki");
    String::from_utf8(digest).unwrap()[..64].to_owned()
}

/// `[attestation]` for who trusts an authority by its root.
fn trusting(root: &str) -> String {
    format!("[attestation]\nroots = [\"{root}\"]\n")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The account of a node.
fn account(node: &Node) -> String {
    let account = ask(&Built::skep(), node.home(), &["account"]).unwrap();
    account["account"]["account"].as_str().unwrap().to_owned()
}

/// What a job's view says of an account's hardware.
fn provider<'a>(job: &'a Value, account: &str) -> &'a Value {
    let all = job["providers"].as_array().unwrap();
    let its = all.iter().find(|line| line["account"] == account);
    its.unwrap_or_else(|| panic!("{account} had no shard: {job}"))
}

/// The lines that a person is shown about attested nodes.
fn told(stdout: &str) -> Vec<&str> {
    let lines = stdout.lines();
    lines.filter(|line| line.contains("attested")).collect()
}

/// Both fields are there whatever is known.
fn is_bare(hardware: &Value) -> bool {
    let fields = hardware.as_object().unwrap();
    ["attested", "not_attested"]
        .iter()
        .all(|name| fields.get(*name) == Some(&Value::Null))
}

/// `[attestation]` for a node whose program fails, and so makes no report.
const BROKEN: &str = "[attestation]\ncommand = [\"false\"]\n";

struct Setting {
    folder: tempfile::TempDir,
    root: String,
    package: String,
}

impl Setting {
    /// A classifier that the requester publishes, and an authority that it trusts.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = authority(&folder.path().join("authority"));
        let path = |name: &str| folder.path().join(name);
        guest_package("batch-classifier", &path("package")).unwrap();
        let tickets = skep_tickets::to_jsonl(&skep_tickets::tickets(5, 12));
        fs::write(path("tickets.jsonl"), tickets).unwrap();
        let labels = skep_tickets::labels_to_json(&skep_tickets::labels(5, 4));
        fs::write(path("labels.json"), labels).unwrap();

        let requester = path("requester");
        configure(&requester, &trusting(&root)).unwrap();
        let home = |arguments: &[&str]| ask(&Built::skep(), &requester, arguments).unwrap();
        home(&["key", "new"]);
        let published = home(&["publish", text(&path("package"))]);
        home(&["account", "add", "2"]);
        let package = published["published"]["reference"].as_str().unwrap();
        let package = package.to_owned();
        Self {
            folder,
            root,
            package,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn requester(&self) -> PathBuf {
        self.path("requester")
    }

    /// A node that takes jobs, and shows this of its hardware.
    fn provider(&self, name: &str, attestation: &str) -> Node {
        let home = self.path(name);
        configure(&home, &format!("[jobs]\naccept = true\n{attestation}")).unwrap();
        Node::start(&Built::skep(), &home).unwrap()
    }

    /// `[attestation]` for a node with the processor of an authority.
    fn processor(&self, authority: &str, more: &str) -> String {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attested/processor.py");
        let authority = self.path(authority);
        format!(
            "[attestation]\ncommand = [\"python3\", \"{program}\", \"{}\"{more}]\n",
            authority.display()
        )
    }

    fn submit(&self, providers: &[&Node], more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["job".to_owned(), "submit".to_owned(), self.package.clone()];
        for (option, name) in [
            ("--input", "tickets.jsonl"),
            ("--labels", "labels.json"),
            ("--output", "result.jsonl"),
        ] {
            arguments.extend([option.to_owned(), text(&self.path(name)).to_owned()]);
        }
        for provider in providers {
            let ticket = provider.status["ticket"].as_str().unwrap();
            arguments.extend(["--provider".to_owned(), ticket.to_owned()]);
        }
        arguments.extend(more.iter().map(|text| (*text).to_owned()));
        arguments
    }

    /// What becomes of a job for these nodes.
    fn job(&self, providers: &[&Node], more: &[&str]) -> Value {
        let submit = self.submit(providers, more);
        ask(&Built::skep(), &self.requester(), &submit).unwrap()["job"].clone()
    }

    /// A job for attested nodes alone is refused where this is the only node, for this reason.
    fn assert_refused(&self, node: &Node, reason: &str) {
        let submit = self.submit(&[node], &["--attested", "--shards", "1"]);
        let ended = run(&self.requester(), &submit).unwrap();
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
}

#[test]
fn only_who_shows_hardware_that_is_believed_gets_a_shard() {
    let setting = Setting::new();
    let has = setting.provider("has", &setting.processor("authority", ""));
    let has_none = setting.provider("has-none", "");
    let job = setting.job(&[&has_none, &has], &["--attested", "--shards", "3"]);
    let account = account(&has);
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["providers"][0], account, "{shard}");
    }
    // They carry the label for which they were chosen.
    let line = provider(&job, &account);
    assert_eq!(line["attested"]["format"], "AMD SEV-SNP", "{line}");
}

#[test]
fn a_job_for_anybody_says_who_is_attested() {
    let setting = Setting::new();
    let requester = setting.requester();
    let has = setting.provider("has", &setting.processor("authority", ""));
    let has_none = setting.provider("has-none", "");
    let (attested, bare) = (account(&has), account(&has_none));
    // Each shard takes both.
    let mut submit = setting.submit(&[&has_none, &has], &["--shards", "2", "--replicas", "2"]);
    submit.push("--json".to_owned());
    let ended = run(&requester, &submit).unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    // Whoever watches sees it as soon as it is known.
    let by = format!("{} (attested)", &attested[..10]);
    assert!(ended.stderr.contains(&by), "{}", ended.stderr);
    let job = ended.stdout.lines().last().unwrap();
    let job: Value = serde_json::from_str(job).unwrap();
    let job = &job["job"];

    let line = provider(job, &attested);
    let label = &line["attested"];
    assert_eq!(line["not_attested"], Value::Null, "{line}");
    assert_eq!(label["format"], "AMD SEV-SNP", "{line}");
    assert_eq!(label["product"], "Milan-B0", "{line}");
    assert_eq!(label["measurement"], "ab".repeat(48), "{line}");
    let firmware = json!({"fmc": null, "boot_loader": 3, "tee": 0, "snp": 8, "microcode": 115});
    assert_eq!(label["firmware"], firmware, "{line}");
    // The authority's certificates were made for 30 days from about now.
    let checked = label["checked_ms"].as_u64().unwrap();
    let certified = label["certified_until_ms"].as_u64().unwrap();
    let days = (certified - checked) / (24 * 60 * 60 * 1000);
    assert!((29..=30).contains(&days), "{line}");
    assert!(is_bare(provider(job, &bare)), "{job}");
    for shard in job["shards"].as_array().unwrap() {
        assert_eq!(shard["providers"].as_array().unwrap().len(), 2, "{shard}");
        assert_eq!(shard["attested"], json!([attested]), "{shard}");
    }

    // The same is there when the job is over, and for a person, who is told nothing of the other node.
    let name = job["job"].as_str().unwrap();
    let again = ask(&Built::skep(), &requester, &["job", "status", name]).unwrap();
    assert_eq!(again["job"]["providers"], job["providers"]);
    assert_eq!(again["job"]["shards"], job["shards"]);
    let shown = run(&requester, &["job", "status", name]).unwrap().stdout;
    let lines = told(&shown);
    assert_eq!(lines.len(), 3, "{shown}");
    let label = format!(
        "  attested  {}: AMD SEV-SNP on Milan-B0, software {}…, firmware boot loader 3, tee 0, snp 8, \
         microcode 115; certified until 20",
        &attested[..10],
        "ab".repeat(8)
    );
    assert!(lines[0].starts_with(&label), "{shown}");
    for shard in &lines[1..] {
        assert!(shard.starts_with("  shard "), "{shown}");
        assert!(shard.contains(&by), "{shown}");
        assert!(shard.contains(&bare[..10]), "{shown}");
        assert_eq!(shard.matches("attested").count(), 1, "{shown}");
    }
}

#[test]
fn a_quote_that_does_not_hold_is_no_label_and_costs_no_job() {
    let setting = Setting::new();
    authority(&setting.path("another"));
    let requester = setting.requester();
    let trusting = trusting(&setting.root);
    let naming = format!("{trusting}measurements = [\"{}\"]\n", "00".repeat(48));
    for (name, attestation, trusted, reason) in [
        (
            "elsewhere",
            setting.processor("authority", ", \"elsewhere\""),
            &trusting,
            "its quote was not made for this node and this question",
        ),
        (
            "stranger",
            setting.processor("another", ""),
            &trusting,
            "its root is not one that is trusted here",
        ),
        (
            "open",
            setting.processor("authority", ", \"debug\""),
            &trusting,
            "its owner may debug it",
        ),
        (
            "unknown",
            setting.processor("authority", ""),
            &naming,
            "runs software with the measurement abab",
        ),
    ] {
        configure(&requester, trusted).unwrap();
        let node = setting.provider(name, &attestation);
        let job = setting.job(&[&node], &["--shards", "1"]);
        assert_eq!(job["state"], "done", "{job}");
        assert_eq!(job["shards"][0]["attested"], json!([]), "{job}");
        let account = account(&node);
        let line = provider(&job, &account);
        assert_eq!(line["attested"], Value::Null, "{name}: {line}");
        let why = line["not_attested"].as_str().unwrap();
        assert!(why.contains(reason), "{name}: {why}");
        let status = ["job", "status", job["job"].as_str().unwrap()];
        let shown = run(&requester, &status).unwrap().stdout;
        let said = format!("  attested  {}: no; {why}", &account[..10]);
        assert_eq!(told(&shown), [said], "{name}");
    }
    // A program that fails shows nothing, as most machines do.
    configure(&requester, &trusting).unwrap();
    let broken = setting.provider("broken", BROKEN);
    let job = setting.job(&[&broken], &["--shards", "1"]);
    assert!(is_bare(provider(&job, &account(&broken))), "{job}");
}

#[test]
fn a_node_tells_its_owner_what_it_can_show() {
    let setting = Setting::new();
    let own = format!("roots = [\"{}\"]\n", setting.root);
    let processor = |more: &str| format!("{}{own}", setting.processor("authority", more));
    let shown = |node: &Node| run(node.home(), &["node", "status"]).unwrap().stdout;

    let has = setting.provider("has", &processor(""));
    let ready = &has.status["attested"];
    assert_eq!(ready["measurement"], "ab".repeat(48), "{}", has.status);
    assert!(ready["certified_until_ms"].as_u64().unwrap() > ready["checked_ms"].as_u64().unwrap());
    let later = has.ask(&["node", "status"]).unwrap();
    // One report is enough for a while.
    assert_eq!(later["attested"], *ready);
    assert_eq!(later["not_attested"], Value::Null);
    let said = shown(&has);
    assert!(
        said.contains("  attested  AMD SEV-SNP on Milan-B0"),
        "{said}"
    );

    let elsewhere = setting.provider("elsewhere", &processor(", \"elsewhere\""));
    let broken = setting.provider("broken", BROKEN);
    // It trusts AMD, and not the authority of these tests.
    let stranger = setting.provider("stranger", &setting.processor("authority", ""));
    for (node, reason) in [
        (&elsewhere, "its quote was not made for this node"),
        (&broken, "false made no report"),
        (&stranger, "its root is not one that is trusted here"),
    ] {
        assert_eq!(node.status["attested"], Value::Null, "{}", node.status);
        let why = node.status["not_attested"].as_str().unwrap();
        assert!(why.contains(reason), "{why}");
        assert!(shown(node).contains(&format!("  attested  no; {why}")));
    }

    let none = setting.provider("none", "");
    assert!(is_bare(&none.status), "{}", none.status);
    assert!(!shown(&none).contains("attested"));
}

#[test]
fn hardware_that_is_not_believed_gets_nothing_and_is_told_why() {
    let setting = Setting::new();
    authority(&setting.path("another"));
    let none = setting.provider("none", "");
    let stranger = setting.provider("stranger", &setting.processor("another", ""));
    let open = setting.provider("open", &setting.processor("authority", ", \"debug\""));
    let broken = setting.provider("broken", BROKEN);
    for (node, reason) in [
        (&none, "this node has no hardware that it could show"),
        (&stranger, "its root is not one that is trusted here"),
        (&open, "its owner may debug it"),
        (&broken, "false made no report"),
    ] {
        setting.assert_refused(node, reason);
    }
    // The requester may ask for more than hardware.
    let has = setting.provider("has", &setting.processor("authority", ""));
    for (more, reason) in [
        (
            format!("measurements = [\"{}\"]", "00".repeat(48)),
            "runs software with the measurement abab",
        ),
        ("firmware = { microcode = 116 }".to_owned(), "is older than"),
    ] {
        let asking = format!("{}{more}\n", trusting(&setting.root));
        configure(&setting.requester(), &asking).unwrap();
        setting.assert_refused(&has, reason);
    }
}
