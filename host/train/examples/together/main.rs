//! Four nodes train one adapter together, and what each has to send for it.
//!
//!     together TEXTS [--steps 300] [--batch 2] [--length 64] [--layers 6] [--width 512]
//!                    [--rate 0.002] [--sign-rate 0.002] [--only NAME]
//!
//! `TEXTS` is a file of lines. A random decoder of Llama's shape learns them, as words; each of
//! four trainers has a quarter of the lines, and all runs see the same batches:
//!
//! | run | what is sent |
//! |---|---|
//! | `all-reduce` | every gradient in bfloat16, at every step |
//! | `diloco-50`, `diloco-100` | how far each has moved, in 4 bits, every 50 or 100 steps |
//! | `diloco-50-streamed` | the same in 4 fragments in turn, each under way for 5 steps |
//! | `demo` | the largest of every 128 frequencies of each momentum, at every step |
//!
//! Prints a line of JSON for each run: bytes that a node sent, and the loss on lines that nobody
//! has learned from. Bytes are those of one copy: how often it is sent is the same question for
//! each run, and depends on who is asked to pass it on.

mod runs;
mod texts;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use runs::{Plan, Run};
use safetensors::tensor::{Dtype, TensorView};
use skep_decoder::Decoder;
use skep_train::Base;
use texts::Texts;

type Failed = Box<dyn std::error::Error>;

/// Words that the decoder has names for.
const VOCABULARY: usize = 4096;

fn main() -> Result<(), Failed> {
    let mut file = None;
    let mut given: HashMap<String, String> = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            None => file = Some(PathBuf::from(argument)),
            Some(name) => {
                let value = arguments.next().ok_or("an option without a value")?;
                given.insert(name.to_owned(), value);
            }
        }
    }
    let number = |name: &str, usual: usize| -> Result<usize, std::num::ParseIntError> {
        given.get(name).map_or(Ok(usual), |text| text.parse())
    };
    let rate = |name: &str, usual: f32| -> Result<f32, std::num::ParseFloatError> {
        given.get(name).map_or(Ok(usual), |text| text.parse())
    };
    let texts = std::fs::read_to_string(file.ok_or("which texts?")?)?;
    let texts = Texts::new(&texts, VOCABULARY, runs::NODES);
    let folder = std::env::temp_dir().join(format!("skep-together-{}", std::process::id()));
    let made = make_base(&folder, number("layers", 6)?, number("width", 512)?);
    let base = made.and_then(|()| Ok(Base::stored(Arc::new(Decoder::load(&folder)?))));
    // Its weights are mapped: what was read of the file stays readable.
    std::fs::remove_dir_all(&folder)?;
    let base = Arc::new(base?);
    let plan = Plan {
        steps: number("steps", 300)?,
        batch: number("batch", 2)?,
        length: number("length", 64)?,
        threads: number("threads", 2)?,
        rate: rate("rate", 2e-3)?,
        sign_rate: rate("sign-rate", 2e-3)?,
    };
    let (linear, _) = base.linear_weights();
    let width = number("width", 512)?;
    eprintln!(
        "{} weights, {} words of learning and {} of testing",
        linear as usize + VOCABULARY * width,
        texts.learned(),
        texts.tested(),
    );
    let mut dense = None;
    for run in Run::ALL {
        if given.get("only").is_some_and(|only| only != run.name()) {
            continue;
        }
        let began = Instant::now();
        let done = runs::run(run, &base, &texts, &plan)?;
        let (bytes, loss) = *dense.get_or_insert((done.bytes, done.loss));
        let line = serde_json::json!({
            "run": run.name(),
            "steps": plan.steps,
            "tokens": plan.steps * plan.batch * plan.length * runs::NODES,
            "parameters": done.parameters,
            "bytes_sent_by_a_node": done.bytes,
            "times_fewer": bytes as f64 / done.bytes as f64,
            "loss_before": done.before,
            "held_out_loss": done.loss,
            "loss_beside_the_first": done.loss / loss - 1.0,
            "losses": done.losses,
            "seconds": began.elapsed().as_secs_f64(),
        });
        println!("{line}");
    }
    Ok(())
}

/// Writes a random decoder of Llama's shape, the same one each time.
fn make_base(folder: &Path, layers: usize, width: usize) -> Result<(), Failed> {
    let (hidden, heads) = (width * 11 / 4, width / 64);
    let keys = width / 2;
    std::fs::create_dir_all(folder)?;
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads / 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let mut shapes = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![VOCABULARY, width],
    )];
    shapes.push(("model.norm.weight".to_owned(), vec![width]));
    for layer in 0..layers {
        let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            shapes.push((name(norm), vec![width]));
        }
        for (module, rows, columns) in [
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", keys, width),
            ("self_attn.v_proj", keys, width),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", hidden, width),
            ("mlp.up_proj", hidden, width),
            ("mlp.down_proj", width, hidden),
        ] {
            shapes.push((name(module), vec![rows, columns]));
        }
    }
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 24) as f32
    };
    // Evenly spread, with the deviation of 0.02 that most models begin with.
    let bound = 0.02 * 3.0_f32.sqrt();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let count: usize = shape.iter().product();
            let is_norm = shape.len() == 1;
            let mut one = || {
                if is_norm {
                    1.0
                } else {
                    (2.0 * random() - 1.0) * bound
                }
            };
            let bytes = (0..count).flat_map(|_| f32::to_le_bytes(one())).collect();
            (name, shape, bytes)
        })
        .collect();
    let mut views = Vec::new();
    for (name, shape, bytes) in &tensors {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes)?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))?;
    Ok(())
}
