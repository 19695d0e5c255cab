//! Runs the benchmarks and the side-by-side comparisons, one after the other, because each needs
//! the machine to itself. The figures that count are in `docs/benchmarks.md`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::environment::{self, Environment};
use crate::{debian, guests, models, python, recipe_tax, together, tuning, village};

#[derive(Args)]
pub struct Options {
    /// Which; all of them without a word.
    #[arg(value_enum)]
    which: Vec<Which>,
    /// For the village and for tuning: take the host and the guests as they are built, and build
    /// nothing.
    #[arg(long)]
    built: bool,
    /// For tuning: a Python that has PyTorch, transformers and PEFT, instead of one that is made.
    /// For language models: one that has what `benches/requirements-llama.txt` says, which says too
    /// how llama.cpp is built; without it skep's own figures alone are taken.
    #[arg(long)]
    python: Option<PathBuf>,
    /// For tuning: how many times both are trained, each time from another seed.
    #[arg(long, default_value_t = 3)]
    seeds: usize,
    /// For links: steps of each node, of which 100 and 50 should be parts.
    #[arg(long, default_value_t = 400)]
    steps: usize,
    /// For links: examples of a step on each node.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// For links: steps that all nodes make together before the comparison begins, by all-reduce at
    /// 0.002, so that what they go on with is a model that has learned its language; 0 for a random
    /// one, which is then trained at 0.002 for what is below.
    #[arg(long, default_value_t = 300)]
    learned: usize,
    /// For links: the largest learning rate.
    #[arg(long, default_value_t = 0.001)]
    rate: f32,
    /// For links: these ways alone, such as `all-reduce,diloco-50`, or `slow` for the slow links.
    #[arg(long, value_name = "WAY", value_delimiter = ',')]
    only: Vec<String>,
    /// For links: the size of DiLoCo's outer steps, and how much of one is made again in the next.
    #[arg(long, num_args = 2, value_names = ["RATE", "MOMENTUM"])]
    outer: Vec<f32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// A host call, an instantiation, a small tensor operation, a process from its start.
    Calls,
    /// The batch classifier as a component beside the same as a native program, and a text that
    /// a guest asks for beside the same without one.
    Tax,
    /// Sentence embedding beside sentence-transformers.
    Embedding,
    /// One provider of jobs beside four, what a shard costs, and what a first one waits for.
    Jobs,
    /// A language model beside llama.cpp, what adapters cost, and the engine beside its decoder.
    Language,
    /// Fetching a large blob beside nginx, curl and b3sum.
    Swarm,
    /// A thousand turns of a hostile player in the village, with the grammar and without it.
    Village,
    /// What it costs a text to commit to its states, and how far honest texts and cheats are from
    /// the model's own.
    Commitments,
    /// An encoder that learns Debian's sections, beside the same by PEFT and the encoder as it is.
    Tuning,
    /// The recipe as a component, in Rust and in Python, beside the same loop natively.
    Recipe,
    /// What four nodes that train together send, beside sending every gradient.
    Together,
    /// The same by four processes, in each way over loopback and by DiLoCo over links of 200 ms and
    /// 10 Mbit/s: what they send, what they come to, and what share of the time they compute.
    Links,
}

/// Runs what was asked for.
pub fn run(environment: &Environment, options: &Options) -> Result<()> {
    let wanted = |which| options.which.is_empty() || options.which.contains(&which);
    // Dependencies are optimised in the development profile, and so are the crates that compute;
    // another profile would be another long build for the same figures.
    if wanted(Which::Calls) {
        for bench in ["small_ops", "host_call", "instantiate"] {
            environment::run(
                &mut bench_of(environment, bench),
                "run the benchmark of calls",
            )?;
        }
        environment.build_host()?;
        let components = guests::build(environment, false)?;
        let mut cargo = bench_of(environment, "cold_start");
        cargo.arg("--skep").arg(environment.skep());
        cargo.arg("--components").arg(components);
        environment::run(&mut cargo, "run the benchmark of starts")?;
    }
    if wanted(Which::Jobs) {
        environment.build_host()?;
        let mut cargo = bench_of(environment, "job_scaling");
        cargo.arg("--skep").arg(environment.skep());
        environment::run(&mut cargo, "compare one provider with four")?;
        let components = guests::build(environment, true)?;
        let mut cargo = bench_of(environment, "job_warmth");
        cargo.arg("--skep").arg(environment.skep());
        cargo.arg("--components").arg(components);
        environment::run(&mut cargo, "compare what is kept ready with what is not")?;
    }
    if wanted(Which::Tax) {
        let components = guests::build(environment, true)?;
        let mut cargo = bench_of(environment, "sandbox_tax");
        cargo
            .arg("--component")
            .arg(components.join("batch-classifier.wasm"))
            .arg("--model")
            .arg(environment.root.join("models").join("skep-mini-embed"));
        environment::run(&mut cargo, "compare the component with the native program")?;
        environment.build_host()?;
        let models = environment.root.join("models");
        for model in [None, Some(models.join("skep-mini-lm/skep-mini-lm.gguf"))] {
            let mut cargo = bench_of(environment, "generate_tax");
            cargo.arg("--skep").arg(environment.skep());
            cargo
                .arg("--component")
                .arg(components.join("generate.wasm"));
            if let Some(model) = model {
                cargo.arg("--model").arg(model);
            }
            environment::run(&mut cargo, "compare a guest's text with the engine's")?;
        }
    }
    if wanted(Which::Embedding) {
        let model = models::fetch(environment)?;
        build_examples(environment, &["embed_bench"])?;
        let packages = ["torch==2.9.1", "sentence-transformers==5.1.2"];
        let python = python::with(environment, "embedding", &packages)?;
        let mut compare = Command::new(python);
        compare
            .arg(
                environment
                    .root
                    .join("benches")
                    .join("embed_side_by_side.py"),
            )
            .arg(example(environment, "embed_bench"))
            .arg(model);
        environment::run(&mut compare, "compare embeddings")?;
    }
    if wanted(Which::Language) {
        build_examples(
            environment,
            &["decoder_rates", "adapter_rates", "engine_rates"],
        )?;
        let rates = |name: &str| Command::new(example(environment, name));
        environment::run(&mut rates("adapter_rates"), "measure what adapters cost")?;
        for what in ["streams", "model"] {
            environment::run(rates("engine_rates").arg(what), "measure the engine")?;
        }
        match &options.python {
            Some(python) => {
                let mut compare = Command::new(python);
                compare
                    .arg(environment.root.join("benches/llama_side_by_side.py"))
                    .arg(example(environment, "decoder_rates"));
                environment::run(&mut compare, "compare with llama.cpp")?;
            }
            None => println!(
                "llama.cpp was left out: give --python a Python that has what \
                 benches/requirements-llama.txt says"
            ),
        }
    }
    if wanted(Which::Swarm) {
        build_examples(environment, &["transfer"])?;
        let mut compare = Command::new("python3");
        compare
            .arg(
                environment
                    .root
                    .join("benches")
                    .join("swarm_side_by_side.py"),
            )
            .arg(example(environment, "transfer"));
        environment::run(&mut compare, "compare transfers")?;
    }
    if wanted(Which::Village) {
        village::run(environment, options.built)?;
    }
    if wanted(Which::Tuning) {
        if !options.built {
            environment.build_host()?;
        }
        tuning::run(environment, options.python.as_deref(), options.seeds)?;
    }
    if wanted(Which::Commitments) {
        build_examples(environment, &["commitments"])?;
        let python = python::with(environment, "commitments", &["gguf==0.19.0"])?;
        let model = environment
            .root
            .join("models/skep-mini-lm/skep-mini-lm.gguf");
        let folder = environment.target.join("commitments");
        let mut cheats = Command::new(python);
        cheats
            .arg(environment.root.join("benches/commitment_models.py"))
            .arg(&model)
            .arg(&folder);
        environment::run(&mut cheats, "make models that are not what was asked for")?;
        let example = example(environment, "commitments");
        let mut rates = Command::new(&example);
        environment::run(rates.arg("rates"), "measure what commitments cost")?;
        // Of the short ones the last chunk has one to six states.
        for (texts, tokens) in [("10000", "40"), ("6000", "2-7")] {
            let mut calibrate = Command::new(&example);
            calibrate.arg("calibrate").arg(&model);
            calibrate.args([texts, "--tokens", tokens]);
            for (name, file) in [
                ("the same at 4 bits", "four_bits.gguf"),
                ("one layer fewer", "fewer_layers.gguf"),
            ] {
                calibrate.arg(format!("{name}={}", folder.join(file).display()));
            }
            environment::run(&mut calibrate, "compare honest texts and cheats")?;
        }
        for format in ["float.gguf", "half.gguf", "four_bits.gguf", "q4_k.gguf"] {
            let mut calibrate = Command::new(&example);
            calibrate
                .arg("calibrate")
                .arg(folder.join(format))
                .arg("1000");
            environment::run(&mut calibrate, "compare honest texts in another format")?;
        }
        // Where checks round, whoever computes more coarsely than was promised must gain nothing by it.
        for checked in [None, Some("--whole")] {
            let mut calibrate = Command::new(&example);
            calibrate
                .arg("calibrate")
                .arg(folder.join("float.gguf"))
                .arg("500")
                .args(checked);
            for (name, file) in [
                ("the same in bfloat16", folder.join("brain.gguf")),
                ("the same at 8 bits", model.clone()),
                ("the same at 4 bits", folder.join("four_bits.gguf")),
            ] {
                calibrate.arg(format!("{name}={}", file.display()));
            }
            environment::run(&mut calibrate, "compare coarser models with floats")?;
        }
    }
    if wanted(Which::Recipe) {
        build_examples(environment, &["train_speed"])?;
        recipe_tax::bench(environment, &example(environment, "train_speed"))?;
    }
    if wanted(Which::Together) {
        build_examples(environment, &["together"])?;
        let texts = environment.target.join("tuning").join("descriptions.txt");
        debian::write_descriptions(&texts)?;
        // One text of 64 words a step and node, so that there are outer steps enough to compare.
        let mut compare = Command::new(example(environment, "together"));
        compare.arg(texts).args(["--steps", "400", "--batch", "1"]);
        environment::run(&mut compare, "compare what nodes send")?;
    }
    if wanted(Which::Links) {
        let plan = together::Plan {
            steps: options.steps,
            batch: options.batch,
            learned: options.learned,
            rate: options.rate,
            only: options.only.clone(),
            outer: options.outer.clone(),
        };
        together::bench(environment, &plan)?;
    }
    Ok(())
}

/// The command that runs one benchmark; what is added to it goes to the benchmark.
fn bench_of(environment: &Environment, name: &str) -> Command {
    let mut cargo = environment.cargo();
    cargo.args([
        "bench",
        "--workspace",
        "--profile",
        "dev",
        "--bench",
        name,
        "--",
    ]);
    cargo
}

fn build_examples(environment: &Environment, names: &[&str]) -> Result<()> {
    let mut cargo = environment.cargo();
    cargo.args(["build", "--workspace", "--test", "golden"]);
    for name in names {
        cargo.args(["--example", name]);
    }
    environment::run(&mut cargo, "build the benchmark")
}

fn example(environment: &Environment, name: &str) -> std::path::PathBuf {
    environment.target.join("debug").join("examples").join(name)
}
