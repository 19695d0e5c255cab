//! The component `generate` on a machine of some kind, its texts shown: without a node.

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use skep_engine::{Engine, LanguageModel, Options, Request};
use skep_evidence::Meter;
use skep_evidence::following::{Observation, Script, Transcript};
use skep_kernels::{Isa, Team};
use skep_registry::Grants;
use skep_sandbox::{Cancel, Program, RunReport, RunSpec, Sandbox, SandboxConfig, Shown, Texts};
use skep_tests::Built;

use super::served::{Change, Served, Shelf, as_asked};

static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::new(SandboxConfig::default()).unwrap());
/// The component.
pub static GENERATE: LazyLock<Arc<Program>> = LazyLock::new(|| {
    let component = fs::read(Built::component("generate")).unwrap();
    Arc::new(SANDBOX.load(component).unwrap())
});

/// A machine that computes a model with these instructions.
pub fn machine(path: &Path, isa: Isa) -> Arc<Served> {
    machine_with(path, isa, 2, Options::default(), as_asked)
}

/// The same with so many threads and these options, and with what becomes of its requests.
pub fn machine_with(
    path: &Path,
    isa: Isa,
    threads: usize,
    options: Options,
    change: Change,
) -> Arc<Served> {
    let mut model = LanguageModel::load("served", path).unwrap();
    let decoder = Arc::try_unwrap(model.decoder).expect("nobody else has it");
    model.decoder = Arc::new(decoder.with_isa(isa));
    let team = Arc::new(Team::new(threads).unwrap());
    let engine = Engine::start(Arc::new(model), team, options).unwrap();
    Arc::new(Served(engine, change))
}

/// One that leaves out the first quarter of every prompt, but for the token that begins it.
pub fn cuts_prompts(isa: Isa) -> Arc<Served> {
    let cut = |request: &mut Request| {
        let quarter = request.prompt.len() / 4;
        drop(request.prompt.drain(1..=quarter));
    };
    let options = Options::default();
    machine_with(&Built::language_model(), isa, 2, options, cut)
}

/// One that computes the model that comes with skep.
pub fn honest(isa: Isa) -> Arc<Served> {
    machine(&Built::language_model(), isa)
}

/// What is asked of the component.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub lines: &'a [u8],
    pub arguments: &'a [&'a str],
    pub seed: u64,
}

/// A run of the component: its output, and what is reported of it.
pub fn run(on: &Arc<Served>, asked: Asked<'_>, texts: Texts) -> (Vec<u8>, RunReport) {
    let spec = RunSpec {
        grants: Grants {
            models: ["default".parse().unwrap()].into(),
            ..Grants::default()
        },
        models: Some(Arc::new(Shelf(Arc::clone(on)))),
        seed: Some(asked.seed),
        texts,
        ..RunSpec::default()
    };
    let arguments: Vec<String> = asked
        .arguments
        .iter()
        .map(|text| (*text).to_owned())
        .collect();
    let mut output = Vec::new();
    let cancel = Cancel::new();
    let report = SANDBOX.run_task(
        &GENERATE,
        &spec,
        &arguments,
        asked.lines,
        &mut output,
        &cancel,
    );
    (output, report.unwrap())
}

/// What a run shows as it is carried to others, with its output and its meter.
pub fn written(on: &Arc<Served>, asked: Asked<'_>) -> (Transcript, Vec<u8>, Meter) {
    let (output, report) = run(on, asked, Texts::Written);
    let meter = meter(&report);
    let Some(Shown::Written(transcript)) = report.shown else {
        panic!("it shows no transcript");
    };
    let carried = Transcript::decode(&transcript.encode()).unwrap();
    assert_eq!(carried, transcript);
    (carried, output, meter)
}

/// What is seen by who follows a script, with the output that it comes to and the meter.
pub fn followed(
    on: &Arc<Served>,
    asked: Asked<'_>,
    script: Script,
) -> (Observation, Vec<u8>, Meter) {
    let (output, report) = run(on, asked, Texts::Followed(Arc::new(script)));
    let meter = meter(&report);
    let Some(Shown::Seen(observation)) = report.shown else {
        panic!("it shows no observation");
    };
    let carried = Observation::decode(&observation.encode()).unwrap();
    assert_eq!(carried, observation);
    (carried, output, meter)
}

/// What a run of a job is billed for, but for its bytes.
pub fn meter(report: &RunReport) -> Meter {
    assert!(report.tokens > 0);
    Meter {
        tokens: report.tokens,
        flops: report.flops,
        ..Meter::default()
    }
}

/// A transcript as a cheat shows it that knows what was asked for, as everybody does who runs the
/// component.
pub fn claiming(mut cheat: Transcript, right: &Transcript) -> Transcript {
    for (answer, right) in cheat.0.iter_mut().zip(&right.0) {
        answer.request = right.request;
    }
    cheat
}
