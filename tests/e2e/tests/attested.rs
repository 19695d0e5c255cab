//! Jobs for nodes that show on what hardware they run, and only for those.
//!
//! No machine with such a processor is needed: a program stands in for one, under an authority that
//! the requester of these tests trusts and nobody else does. That real reports and AMD's own
//! authorities are read as AMD's verifier reads them is shown in `host/attest`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skep_tests::{Built, Node, ask, run};

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

/// A home on loopback with more of a configuration.
fn configure(home: &Path, more: &str) {
    fs::create_dir_all(home).unwrap();
    let text = format!("[network]\nlisten = \"127.0.0.1:0\"\nmdns = false\n{more}");
    fs::write(home.join("config.toml"), text).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

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
        let source = Built::root().join("guests/batch-classifier");
        fs::create_dir(path("package")).unwrap();
        for name in ["skep.toml", "README.md"] {
            fs::copy(source.join(name), path("package").join(name)).unwrap();
        }
        let component = Built::component("batch-classifier");
        fs::copy(&component, path("package").join("batch-classifier.wasm")).unwrap();
        let mut input = Vec::new();
        let tickets = skep_tickets::tickets(5, 12);
        skep_tickets::write_tickets(
            &mut input,
            &tickets,
            skep_tickets::Format::Jsonl,
            false,
            None,
        )
        .unwrap();
        fs::write(path("tickets.jsonl"), input).unwrap();
        let mut labels = Vec::new();
        skep_tickets::write_labels(&mut labels, &skep_tickets::labels(5, 4)).unwrap();
        fs::write(path("labels.json"), labels).unwrap();

        let requester = path("requester");
        configure(
            &requester,
            &format!("[attestation]\nroots = [\"{root}\"]\n"),
        );
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

    /// A node that takes jobs, and shows this of its hardware.
    fn provider(&self, name: &str, attestation: &str) -> Node {
        configure(
            &self.path(name),
            &format!("[jobs]\naccept = true\n{attestation}"),
        );
        Node::start(&Built::skep(), &self.path(name)).unwrap()
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
}

#[test]
fn only_who_shows_hardware_that_is_believed_gets_a_shard() {
    let setting = Setting::new();
    let requester = setting.path("requester");
    let has = setting.provider("has", &setting.processor("authority", ""));
    let has_none = setting.provider("has-none", "");
    let all = [&has_none, &has];
    let submit = setting.submit(&all, &["--attested", "--shards", "3"]);
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    let account = ask(&Built::skep(), has.home(), &["account"]).unwrap();
    let account = &account["account"]["account"];
    for shard in job["job"]["shards"].as_array().unwrap() {
        assert_eq!(shard["providers"][0], *account, "{shard}");
    }
    // Who does not ask for it gets both.
    let submit = setting.submit(&all, &["--shards", "2", "--replicas", "2"]);
    let job = ask(&Built::skep(), &requester, &submit).unwrap();
    for shard in job["job"]["shards"].as_array().unwrap() {
        assert_eq!(shard["providers"].as_array().unwrap().len(), 2, "{shard}");
    }
}

#[test]
fn hardware_that_is_not_believed_gets_nothing_and_is_told_why() {
    let setting = Setting::new();
    authority(&setting.path("another"));
    let requester = setting.path("requester");
    let none = setting.provider("none", "");
    let stranger = setting.provider("stranger", &setting.processor("another", ""));
    let open = setting.provider("open", &setting.processor("authority", ", \"debug\""));
    let broken = setting.provider("broken", "[attestation]\ncommand = [\"false\"]\n");
    for (node, reason) in [
        (&none, "this node has no hardware that it could show"),
        (&stranger, "its root is not one that is trusted here"),
        (&open, "its owner may debug it"),
        (&broken, "false made no report"),
    ] {
        let submit = setting.submit(&[node], &["--attested", "--shards", "1"]);
        let ended = run(&requester, &submit).unwrap();
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
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
        let root = &setting.root;
        configure(
            &requester,
            &format!("[attestation]\nroots = [\"{root}\"]\n{more}\n"),
        );
        let submit = setting.submit(&[&has], &["--attested", "--shards", "1"]);
        let ended = run(&requester, &submit).unwrap();
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    }
}
