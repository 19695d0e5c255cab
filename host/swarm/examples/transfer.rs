//! Measures how fast a blob goes into a node, from node to node over loopback, and out again.
//!
//! `cargo run -p skep-swarm --example transfer -- [--mib N] [--dir D] [--streams N] [--runs N]`
//!
//! Prints one JSON object. Rates are in MB/s (10⁶ bytes a second); of several runs the median is
//! given and all are listed. Beside them stand what the machine does at best: BLAKE3 on one
//! thread, and writing the same bytes to a file with a flush at the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a program for measuring ends on any error"
)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use skep_swarm::{FileRef, Limits, Swarm, SwarmConfig};

struct Options {
    mib: usize,
    dir: PathBuf,
    streams: usize,
    runs: usize,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            mib: 1024,
            dir: std::env::temp_dir(),
            streams: Limits::default().streams,
            runs: 1,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().expect("each option has a value");
            match arg.as_str() {
                "--mib" => options.mib = value().parse().expect("--mib takes a number"),
                "--dir" => options.dir = value().into(),
                "--streams" => options.streams = value().parse().expect("--streams takes a number"),
                "--runs" => options.runs = value().parse().expect("--runs takes a number"),
                other => panic!("unknown option {other}"),
            }
        }
        options
    }
}

/// Bytes that neither compress nor repeat, made quickly.
fn content(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_derive_key("skep transfer bench content")
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Processor time that this process has used, in seconds, where the system says (Linux). Both
/// nodes are in it. Unlike the rates it hardly depends on what else the machine does.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the name in parentheses; user and system time are the 12th and 13th of
    // them, in hundredths of a second.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

struct Rates {
    bytes: usize,
    runs: Vec<f64>,
}

impl Rates {
    fn new(bytes: usize) -> Self {
        Self {
            bytes,
            runs: Vec::new(),
        }
    }

    fn add(&mut self, started: Instant) {
        let rate = self.bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
        self.runs.push((rate * 10.0).round() / 10.0);
    }

    fn json(&self) -> serde_json::Value {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        serde_json::json!({ "median": sorted[sorted.len() / 2], "runs": self.runs })
    }
}

async fn open(dir: &Path, streams: usize) -> Swarm {
    let mut config = SwarmConfig::loopback(dir);
    config.limits.streams = streams;
    Swarm::open(config).await.expect("the node opens")
}

#[tokio::main]
async fn main() {
    let options = Options::read();
    let bytes = options.mib << 20;
    let dir = options
        .dir
        .join(format!("skep-transfer-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let data = content(bytes);
    let source = dir.join("source");

    let mut hash = Rates::new(bytes);
    let mut disk = Rates::new(bytes);
    let mut import = Rates::new(bytes);
    let mut fetch = Rates::new(bytes);
    let mut cpu = Vec::new();
    let mut verify = Rates::new(bytes);
    let mut export = Rates::new(bytes);
    for _ in 0..options.runs {
        let started = Instant::now();
        let digest = blake3::hash(&data);
        hash.add(started);
        let started = Instant::now();
        let mut file = File::create(&source).unwrap();
        file.write_all(&data).unwrap();
        file.sync_all().unwrap();
        disk.add(started);
        drop(file);

        let (a, b) = (
            open(&dir.join("a"), options.streams).await,
            open(&dir.join("b"), options.streams).await,
        );
        let started = Instant::now();
        let (imported, size) = a.import_path(&source).await.unwrap();
        import.add(started);
        assert_eq!(imported.as_bytes(), digest.as_bytes());
        a.share(&imported).await.unwrap();

        let file = FileRef {
            path: "source".to_owned(),
            digest: imported,
            size,
        };
        let before = cpu_seconds();
        let started = Instant::now();
        let report = b.fetch_files(&[file], &[a.addr()], None).await.unwrap();
        fetch.add(started);
        if let (Some(before), Some(after)) = (before, cpu_seconds()) {
            cpu.push(((after - before) * 100.0).round() / 100.0);
        }
        assert_eq!(report.bytes_fetched, size);

        let started = Instant::now();
        b.verify(&imported).await.unwrap();
        verify.add(started);
        let started = Instant::now();
        b.export(&imported, &dir.join("out")).await.unwrap();
        export.add(started);

        a.shutdown().await;
        b.shutdown().await;
        for leftover in ["a", "b"] {
            std::fs::remove_dir_all(dir.join(leftover)).unwrap();
        }
        std::fs::remove_file(dir.join("out")).unwrap();
    }
    std::fs::remove_dir_all(&dir).unwrap();
    let result = serde_json::json!({
        "bytes": bytes,
        "streams": options.streams,
        "unit": "MB/s",
        "import": import.json(),
        "fetch": fetch.json(),
        "fetch_cpu_seconds": cpu,
        "verify": verify.json(),
        "export": export.json(),
        "blake3_one_thread": hash.json(),
        "disk_write_flushed": disk.json(),
    });
    println!("{result}");
}
