//! What the tests of jobs share: a package and its input, nodes that take jobs, commands that are
//! followed while they run, and the check that no credit was made or lost.

#![allow(dead_code, reason = "each test file uses some of it")]

mod books;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "each test file uses some of it")]
pub use books::{assert_finished, assert_kept, remembered, reputation};
use serde_json::Value;
use skep_market::{Event, Journal};
use skep_tests::{Built, Node, ask, guest_package, task_package, written};
use skep_tickets::Format;

/// A folder with an input, a package that its publisher keeps in `requester`, and what one node
/// alone makes of that input.
pub struct Setting {
    pub folder: tempfile::TempDir,
    pub package: String,
    pub publisher: String,
    pub expected: Vec<u8>,
    /// The options that name the input.
    inputs: Vec<(&'static str, &'static str)>,
}

impl Setting {
    /// Tickets and the classifier.
    pub fn new(tickets: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        guest_package("batch-classifier", &path("package")).unwrap();
        let tickets = skep_tickets::tickets(11, tickets);
        let mut input = Vec::new();
        // Every fiftieth line is no record, and is named by its place in the whole input.
        skep_tickets::write_tickets(&mut input, &tickets, Format::Jsonl, false, Some(50)).unwrap();
        fs::write(path("tickets.jsonl"), input).unwrap();
        let labels = skep_tickets::labels_to_json(&skep_tickets::labels(11, 8));
        fs::write(path("labels.json"), labels).unwrap();
        let inputs = vec![("--input", "tickets.jsonl"), ("--labels", "labels.json")];
        Self::publish(folder, "batch-classifier", inputs)
    }

    /// Lines, and a package that has the language model go on with each.
    pub fn texts(lines: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (package, description) = (folder.path().join("package"), "Goes on with each line");
        let grants = "[grants]\nmodels = [\"default\"]\n";
        let component = fs::read(Built::component("generate")).unwrap();
        task_package(&package, "generate", description, grants, &component).unwrap();
        fs::write(folder.path().join("lines.txt"), lines.join("\n")).unwrap();
        Self::publish(folder, "generate", vec![("--input", "lines.txt")])
    }

    /// So many short lines, and a package that gives back what it gets.
    pub fn echoes(lines: usize) -> Self {
        let lines: String = (0..lines).map(|line| format!("record {line}\n")).collect();
        Self::gives_back(&written::echo(), lines.as_bytes())
    }

    /// Any lines, and a package that gives them back once it has all of its shard in its memory.
    pub fn gathers(lines: &[u8]) -> Self {
        Self::gives_back(&written::gather(), lines)
    }

    /// Lines, and a package with a task, in the text format, that gives back what it gets.
    fn gives_back(component: &str, lines: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (package, description) = (folder.path().join("package"), "Gives back what it gets");
        let component = wat::parse_str(component).unwrap();
        task_package(&package, "echo", description, "", &component).unwrap();
        fs::write(folder.path().join("lines.txt"), lines).unwrap();
        let setting = Self::publish(folder, "echo", vec![("--input", "lines.txt")]);
        assert!(
            setting.expected == lines,
            "what comes back is not what was given"
        );
        setting
    }

    /// Publishes the package in the folder, and runs it once.
    fn publish(
        folder: tempfile::TempDir,
        name: &str,
        inputs: Vec<(&'static str, &'static str)>,
    ) -> Self {
        let requester = folder.path().join("requester");
        configure(&requester, "");
        let mut setting = Self {
            package: String::new(),
            publisher: String::new(),
            expected: Vec::new(),
            inputs,
            folder,
        };
        let home = |arguments: &[&str]| ask(&Built::skep(), &requester, arguments).unwrap();
        home(&["key", "new"]);
        let published = home(&["publish", &setting.text("package")]);
        let package = published["published"]["reference"].as_str().unwrap();
        package.clone_into(&mut setting.package);
        setting.expected = setting.run_alone(&requester, name);
        home(&["account", "add", "2"]);
        setting.publisher = package.split_once('/').unwrap().0.to_owned();
        setting
    }

    /// Publishes a task with these grants from a home that has a key, and returns what it is called there.
    pub fn publish_task(&self, home: &Path, name: &str, component: &[u8], grants: &str) -> String {
        let folder = self.path(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("task.wasm"), component).unwrap();
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nkind = \"component\"\n\
             [component]\nworld = \"task\"\npath = \"task.wasm\"\n[grants]\n{grants}\n"
        );
        fs::write(folder.join("skep.toml"), manifest).unwrap();
        let published = ask(&Built::skep(), home, &["publish", &self.text(name)]).unwrap();
        let reference = published["published"]["reference"].as_str().unwrap();
        reference.split_once('@').unwrap().0.to_owned()
    }

    fn run_alone(&self, home: &Path, name: &str) -> Vec<u8> {
        let output = self.text("expected.jsonl");
        let mut run = vec!["run".to_owned(), name.to_owned()];
        run.extend(self.inputs());
        run.extend(["--output".to_owned(), output.clone()]);
        ask(&Built::skep(), home, &run).unwrap();
        fs::read(output).unwrap()
    }

    fn inputs(&self) -> impl Iterator<Item = String> {
        let inputs = self.inputs.iter();
        inputs.flat_map(|(option, file)| [(*option).to_owned(), self.text(file)])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A node that takes jobs, one at a time, with more of its owner's rules.
    pub fn provider(&self, name: &str, rules: &str, guests: u32) -> Node {
        self.provider_by(&Built::skep(), name, rules, guests)
    }

    /// The same, begun by another program than `skep`, which ends up as it.
    pub fn provider_by(&self, skep: &Path, name: &str, rules: &str, guests: u32) -> Node {
        let jobs = format!("guests = {guests}\n[jobs]\naccept = true\n{rules}");
        configure(&self.path(name), &jobs);
        Node::start(skep, &self.path(name)).unwrap()
    }

    pub fn submit(&self, tickets: &[&str], more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["job", "submit", &self.package].map(str::to_owned).to_vec();
        arguments.extend(self.inputs());
        arguments.extend(["--output".to_owned(), self.text("result.jsonl")]);
        for ticket in tickets {
            arguments.extend(["--provider".to_owned(), (*ticket).to_owned()]);
        }
        arguments.extend(more.iter().map(|text| (*text).to_owned()));
        arguments
    }

    /// What one node alone makes of the tickets as they are now.
    pub fn local_run(&self, home: &Path) -> Vec<u8> {
        self.run_alone(home, "batch-classifier")
    }

    pub fn assert_right(&self) {
        let result = fs::read(self.path("result.jsonl")).unwrap();
        assert!(
            result == self.expected,
            "the result differs from a local run"
        );
    }
}

/// A home on loopback, with more of a configuration than that.
pub fn configure(home: &Path, more: &str) {
    let (top, tables) = more.split_once("[jobs]").unwrap_or(("", ""));
    let jobs = if tables.is_empty() { "" } else { "[jobs]" };
    configure_with(home, top, "", &format!("{jobs}{tables}"));
}

/// The same, with something before, in and after the table `[network]`.
pub fn configure_with(home: &Path, before: &str, network: &str, after: &str) {
    fs::create_dir_all(home).unwrap();
    let own = "listen = \"127.0.0.1:0\"\nmdns = false\n";
    let text = format!("{before}[network]\n{own}{network}{after}");
    fs::write(home.join("config.toml"), text).unwrap();
}

pub fn ticket(node: &Node) -> &str {
    node.status["ticket"].as_str().unwrap()
}

/// Waits until it is so. Whoever asks begins a process each time.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
    }
}

/// Whether a node is at work on a shard.
pub fn has_shard(node: &Node) -> bool {
    let status = node.ask(&["node", "status"]).unwrap();
    let mut running = status["running"].as_array().unwrap().iter();
    running.any(|line| line["package"].as_str().unwrap().starts_with("a shard of"))
}

pub fn account(home: &Path) -> Value {
    ask(&Built::skep(), home, &["account"]).unwrap()["account"].clone()
}

pub fn micro(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap()
}

/// What a requester keeps of a job.
pub fn folder_of(requester: &Path, job: &Value) -> PathBuf {
    requester.join("jobs").join(job["job"].as_str().unwrap())
}

/// What happened to a job at which nobody works any more.
pub fn events_of(requester: &Path, job: &Value) -> Vec<Event> {
    let name = job["job"].as_str().unwrap().parse().unwrap();
    let journal = folder_of(requester, job).join("journal.redb");
    Journal::open(&journal, name).unwrap().1
}

/// Nothing was made or lost: what the requester lost is what its ledger gave to others, and what
/// these earned by the receipts that they hold. Returns what each of them earned.
pub fn assert_conserved(requester: &Path, providers: &[&Path], spent: u64) -> Vec<u64> {
    let account_of = account(requester);
    assert_eq!(micro(&account_of, "supply_micro"), 1_000_000_000_000_000);
    assert_eq!(micro(&account_of, "escrowed_micro"), 0);
    assert_eq!(micro(&account_of, "available_micro"), 2_000_000 - spent);
    let paid = account_of["balances"].as_array().unwrap();
    let mut all = 0;
    let earned = providers.iter().map(|home| {
        let provider = account(home);
        let earned = micro(&provider, "earned_micro");
        let line = paid
            .iter()
            .find(|line| line["account"] == provider["account"]);
        assert_eq!(line.map_or(0, |line| micro(line, "micro")), earned);
        all += earned;
        earned
    });
    let earned = earned.collect();
    assert_eq!(all, spent);
    earned
}

/// How long a job of these tests may say nothing: many times what any of its steps takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// A command whose lines are read while it runs.
pub struct Following {
    child: Child,
    skep: PathBuf,
    home: PathBuf,
    lines: Receiver<String>,
    said: Vec<String>,
    printed: JoinHandle<String>,
}

impl Following {
    pub fn start(home: &Path, arguments: &[String]) -> Self {
        Self::start_by(&Built::skep(), home, arguments)
    }

    /// The same, begun by another program than `skep`, which ends up as it.
    pub fn start_by(skep: &Path, home: &Path, arguments: &[String]) -> Self {
        let mut child = Command::new(skep)
            .arg("--home")
            .arg(home)
            .arg("--json")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        // Read meanwhile, for a pipe that nobody reads holds up who writes.
        let mut stdout = child.stdout.take().unwrap();
        let printed = std::thread::spawn(move || {
            let mut printed = String::new();
            stdout.read_to_string(&mut printed).unwrap();
            printed
        });
        Self {
            child,
            skep: skep.to_path_buf(),
            home: home.to_path_buf(),
            lines,
            said: Vec::new(),
            printed,
        }
    }

    /// The next line, or nothing once the command has ended.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.said.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let job = self.said.first().and_then(|line| line.split(' ').nth(1));
                let status = ["job", "status", job.unwrap_or_default()];
                let stands = ask(&self.skep, &self.home, &status);
                let _ = self.child.kill();
                panic!("nothing for {PATIENCE:?}: {:#?}\n{stands:#?}", self.said);
            }
        }
    }

    /// Waits until so many shards are done; returns what the job's name begins with.
    pub fn until_done(&mut self, shards: usize) -> String {
        let mut done = 0;
        loop {
            let line = self.line();
            let line = line.unwrap_or_else(|| panic!("ended early: {:#?}", self.said));
            if line.contains(": done by ") {
                done += 1;
                if done == shards {
                    return line.split(' ').nth(1).unwrap().to_owned();
                }
            }
        }
    }

    /// Waits until it has said so much of shards, or of so many that they are done, or has ended; returns what it
    /// said of shards.
    pub fn until_told(&mut self, times: usize, done: usize) -> Vec<String> {
        loop {
            let is_told = |line: &&String| line.split(' ').nth(2) == Some("shard");
            let told: Vec<String> = self.said.iter().filter(is_told).cloned().collect();
            let is_done = |line: &&String| line.contains(": done by ");
            let is_enough = told.len() >= times || told.iter().filter(is_done).count() >= done;
            if is_enough || self.line().is_none() {
                return told;
            }
        }
    }

    /// Waits until it says something with this in it.
    pub fn until_said(&mut self, what: &str) {
        loop {
            let line = self.line();
            let line = line.unwrap_or_else(|| panic!("ended early: {:#?}", self.said));
            if line.contains(what) {
                return;
            }
        }
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, which is no good one; returns what it said meanwhile.
    pub fn fails(mut self) -> String {
        while self.line().is_some() {}
        let said = self.said.join("\n");
        assert!(!self.child.wait().unwrap().success(), "{said}");
        said
    }

    pub fn end(self) -> Value {
        self.end_with_all().1.pop().unwrap()
    }

    /// Waits for its end; returns all lines that it said, and all that it printed.
    pub fn end_with_all(mut self) -> (Vec<String>, Vec<Value>) {
        while self.line().is_some() {}
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{:#?}", self.said);
        let printed = self.printed.join().unwrap();
        let lines = printed.lines().map(serde_json::from_str::<Value>);
        (self.said, lines.collect::<Result<_, _>>().unwrap())
    }
}

/// A guest of the owner's own that takes the only place for guests on a node, and stays in it: it
/// reads a pipe to its end, which comes when this is dropped.
pub struct Occupied {
    run: Child,
    pipe: Option<fs::File>,
}

impl Occupied {
    pub fn new(setting: &Setting, node: &Node) -> Self {
        let name = node.home().file_name().unwrap().to_str().unwrap();
        let pipe = setting.path(&format!("{name}.pipe"));
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let run = Command::new(Built::skep())
            .arg("--home")
            .arg(node.home())
            .arg("run")
            .arg(Built::component("similar"))
            .arg("--input")
            .arg(&pipe)
            .args(["--output", "/dev/null", "--", "query"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Opens when the node has opened the other end, and takes more than a pipe holds only
        // once the guest reads.
        let mut writer = fs::File::options().write(true).open(&pipe).unwrap();
        writer.write_all(&vec![b'a'; 1 << 20]).unwrap();
        Self {
            run,
            pipe: Some(writer),
        }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        // The run is called off, and then nothing waits for the pipe any more.
        let _ = self.run.kill();
        let _ = self.run.wait();
        self.pipe.take();
    }
}
