//! What the sandbox costs: the batch classifier as a component beside the same classifier as a
//! native program, over the same tickets with the same encoder, in one process and in turn.
//!
//! ```text
//! sandbox_tax --component FILE --model FOLDER [--records N] [--rounds N]
//! ```
//!
//! Both sides must write the same bytes. A side's time goes from before the labels are learned
//! to after the last outcome is written; the component's instantiation is in it, and what both
//! have to do before (loading the encoder, loading the component) is not. Processor time is told
//! beside it, where the system tells it: other work on the machine disturbs it less.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod options;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use options::{number, options};
use skep_model::Encoder;
use skep_records::{Format, Labels, Reader};
use skep_registry::{Grants, ModelGrant};
use skep_sandbox::{
    Cancel, EncoderInfo, LanguageModel, ModelError, Models, Program, RunSpec, Sandbox,
    SandboxConfig, TextAdapter, TextEncoder,
};
use skep_tensor::{Account, Device, Tensor};

/// The seed of the tickets, and the examples of each label, as in the demo.
const SEED: u64 = 7;
const EXAMPLES: usize = 8;

fn main() {
    let names = ["--component", "--model", "--records", "--rounds"];
    let [component, model, records, rounds] = options(names);
    let (records, rounds) = (number(records, 20_000_usize), number(rounds, 7_usize));
    let component = std::fs::read(component.expect("--component FILE")).unwrap();
    let model = PathBuf::from(model.expect("--model FOLDER"));
    let encoder = Encoder::load(&model, &Device::cpu()).unwrap();
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    // As the node does it: the encoder's threads make room for guests that compute.
    let computing = sandbox.guests_computing();
    skep_model::Workers::shared()
        .unwrap()
        .give_way_to(move || computing.any());
    let sides = Sides {
        program: Arc::new(sandbox.load(component).unwrap()),
        sandbox,
        encoder,
        labels: Labels::parse(
            skep_tickets::labels_to_json(&skep_tickets::labels(SEED, EXAMPLES)).as_bytes(),
        )
        .unwrap(),
    };
    let few = skep_tickets::to_jsonl(&skep_tickets::tickets(SEED, 1_000));
    let input = skep_tickets::to_jsonl(&skep_tickets::tickets(SEED, records));
    assert_eq!(sides.native(&few).output, sides.sandboxed(&few).output);

    let mut pairs = Vec::new();
    for round in 0..rounds.max(1) {
        // Whoever goes second finds the machine as the other left it, so they take turns.
        let (native, sandboxed) = if round % 2 == 0 {
            let native = sides.native(&input);
            (native, sides.sandboxed(&input))
        } else {
            let sandboxed = sides.sandboxed(&input);
            (sides.native(&input), sandboxed)
        };
        assert!(
            native.output == sandboxed.output,
            "the two sides wrote different bytes"
        );
        println!(
            "round {}: native {:.3} s ({:.2} s of processors), component {:.3} s ({:.2} s)",
            round + 1,
            native.wall,
            native.processors,
            sandboxed.wall,
            sandboxed.processors
        );
        pairs.push((native, sandboxed));
    }
    let median = |of: fn(&(Side, Side)) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let percent = |native: f64, sandboxed: f64| (sandboxed / native - 1.0) * 100.0;
    let wall = (median(|pair| pair.0.wall), median(|pair| pair.1.wall));
    let processors = (
        median(|pair| pair.0.processors),
        median(|pair| pair.1.processors),
    );
    println!(
        "{records} records, {rounds} rounds, the same {} bytes from both sides",
        pairs[0].0.output.len()
    );
    println!(
        "medians: native {:.3} s, component {:.3} s: {:+.1} % (of the rounds' own ratios: {:+.1} %)",
        wall.0,
        wall.1,
        percent(wall.0, wall.1),
        percent(1.0, median(|pair| pair.1.wall / pair.0.wall))
    );
    println!(
        "processor time: native {:.2} s, component {:.2} s: {:+.1} %",
        processors.0,
        processors.1,
        percent(processors.0, processors.1)
    );
}

/// What one side took, and what it wrote.
struct Side {
    wall: f64,
    processors: f64,
    output: Vec<u8>,
}

struct Sides {
    sandbox: Sandbox,
    program: Arc<Program>,
    encoder: Encoder,
    labels: Labels,
}

impl Sides {
    fn native(&self, input: &str) -> Side {
        timed(|output| {
            let lines = Reader::new(input.as_bytes(), Format::Jsonl);
            skep_benches::classify(&self.encoder, &self.labels.labels, lines, output).unwrap();
        })
    }

    fn sandboxed(&self, input: &str) -> Side {
        timed(|output| {
            let spec = RunSpec {
                grants: Grants {
                    tensor: true,
                    models: [ModelGrant::Default].into(),
                    ..Grants::default()
                },
                models: Some(Arc::new(OneEncoder(self.encoder.clone()))),
                ..RunSpec::default()
            };
            let lines = Reader::new(input.as_bytes(), Format::Jsonl);
            self.sandbox
                .classify(
                    &self.program,
                    &spec,
                    &self.labels.labels,
                    lines,
                    output,
                    &mut |_| {},
                    &Cancel::new(),
                )
                .unwrap();
        })
    }
}

fn timed(run: impl FnOnce(&mut Vec<u8>)) -> Side {
    let mut output = Vec::new();
    let before = processor_seconds();
    let began = Instant::now();
    run(&mut output);
    Side {
        wall: began.elapsed().as_secs_f64(),
        processors: processor_seconds() - before,
        output,
    }
}

/// What this process has used of all processors, by Linux's count; 0 elsewhere.
fn processor_seconds() -> f64 {
    let status = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = status.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    // Linux counts in hundredths of a second for programs, whatever it counts in itself.
    ticks / 100.0
}

/// The encoder, as the sandbox knows encoders.
struct OneEncoder(Encoder);

impl Models for OneEncoder {
    fn open(&self, _: &str, _: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        Ok(Arc::new(OneEncoder(self.0.clone())))
    }

    fn open_text(&self, name: &str, _: &Account) -> Result<Arc<dyn LanguageModel>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }

    fn open_adapter(&self, name: &str, _: &Account) -> Result<Arc<dyn TextAdapter>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }
}

impl TextEncoder for OneEncoder {
    fn info(&self) -> EncoderInfo {
        let info = self.0.info();
        EncoderInfo {
            name: "default".to_owned(),
            digest: "0".repeat(64),
            dimensions: info.dimensions,
            max_tokens: info.max_tokens,
            weights_bytes: info.resident_bytes,
        }
    }

    fn count_tokens(&self, texts: &[String], _: &Account) -> Result<Vec<u32>, ModelError> {
        let counted = self.0.count_tokens(texts);
        counted.map_err(|error| ModelError::Failed(error.to_string()))
    }

    fn embed(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError> {
        let rows = self.0.embed(texts, account);
        rows.map_err(|error| ModelError::Failed(error.to_string()))
    }
}
