//! Adapters of decoders as PEFT has them: what is saved here, and whose scales are not plain.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{
    Reference, base, examples, gradients_agree, here, model_folder, options, relative, seed_lora,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use skep_decoder::{AdapterError, Decoder};
use skep_train::{
    Base, Divisor, Example, HyperParameters, LoraConfig, Loss, Outcome, TrainError, Trainer,
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

fn config(folder: &Path) -> Value {
    let text = std::fs::read(folder.join(CONFIG)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(folder: &Path) -> Tensors {
    let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        let (shape, data) = (tensor.shape().to_vec(), tensor.data().to_vec());
        (name.to_owned(), (tensor.dtype(), shape, data))
    };
    file.names().into_iter().map(of).collect()
}

fn judged(trainer: &mut Trainer, texts: &[Example]) -> Outcome {
    trainer
        .evaluate(texts, Loss::CrossEntropy, Divisor::Own)
        .unwrap()
}

fn trainer(lora: LoraConfig) -> Trainer {
    Trainer::open(base("llama"), lora, &options()).unwrap()
}

/// What `saved` has, and PEFT was given, is what this crate saves, and PEFT finds in it what was
/// trained here: of a model's folder, and of a GGUF file, which has the rows of queries and keys in
/// another order.
#[test]
fn what_is_saved_of_a_decoder_is_what_peft_computes_with() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("model.gguf");
    common::gguf::write_llama(&model_folder("smollm"), &file);
    let gguf = Arc::new(Base::stored(Arc::new(Decoder::load(&file).unwrap())));
    let texts = examples(&Reference::open("smollm/reference.safetensors"));
    let want = Reference::open("saved/texts.safetensors").floats("logs");
    let (folder, saved) = (here("saved"), scratch.path().join("saved"));
    let mut weights = Vec::new();
    for (name, base) in [("folder", base("smollm")), ("GGUF", gguf)] {
        let mut trainer = Trainer::open(base, seed_lora(), &options()).unwrap();
        let plain = judged(&mut trainer, &texts).log_probabilities.concat();
        trainer.load_adapter(&folder).unwrap();
        let got = judged(&mut trainer, &texts).log_probabilities.concat();
        let (mut worst, mut changed) = (0.0_f32, 0.0_f32);
        let counts = texts.iter().flat_map(|text| &text.weights);
        for (n, _) in counts.enumerate().filter(|(_, weight)| **weight != 0.0) {
            // A text's first token has no probability, whatever its weight.
            if got[n] != 0.0 {
                worst = worst.max((got[n] - want[n]).abs());
                changed = changed.max((plain[n] - want[n]).abs());
            }
        }
        println!(
            "{name}: within {worst:.1e} of PEFT's, which are up to {changed:.1} from the base's"
        );
        assert!(worst < 2e-4 && changed > 0.1, "{name}: {worst} {changed}");
        trainer.save(&saved, "tiny-smollm").unwrap();
        assert!(tensors(&saved) == tensors(&folder), "{name}: other weights");
        assert_eq!(config(&saved), config(&folder), "{name}");
        weights.push(trainer.weights().to_vec());
    }
    // The order was another one.
    assert!(relative(&weights[1], &weights[0]) > 0.1);
}

#[test]
fn a_rank_stabilized_adapter_has_pefts_gradients_and_losses_and_keeps_its_scale() {
    let reference = Reference::open("stable/reference.safetensors");
    let texts = examples(&Reference::open("steps/reference.safetensors"));
    let opened = Trainer::open_adapter(base("llama"), &here("stable"), &options());
    let mut learning = opened.unwrap();
    let lora = learning.lora().clone();
    assert_eq!(
        (lora.rank, lora.alpha, lora.rank_stabilized),
        (3, 2.0, true)
    );
    let hyper = HyperParameters {
        learning_rate: 5e-3,
        weight_decay: 0.01,
        ..HyperParameters::default()
    };
    for (step, want) in reference.floats("losses").into_iter().enumerate() {
        let pair = [2 * step % 8, (2 * step + 1) % 8].map(|n| texts[n].clone());
        let done = learning.forward_backward(&pair, Loss::CrossEntropy, Divisor::Own);
        let loss = done.unwrap().loss;
        let error = (loss / f64::from(want) - 1.0).abs();
        let most = if step == 0 { 1e-5 } else { 1e-3 };
        assert!(error < most, "step {step}: {loss} instead of {want}");
        if step == 0 {
            gradients_agree(&learning, &reference, "stable");
        }
        learning.optim_step(&hyper).unwrap();
    }

    let scratch = tempfile::tempdir().unwrap();
    learning.save(scratch.path(), "tiny-llama").unwrap();
    let config = config(scratch.path());
    assert_eq!(config["use_rslora"], json!(true));
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(3), &json!(2.0))
    );
    let want = judged(&mut learning, &texts);
    let opened = Trainer::open_adapter(base("llama"), scratch.path(), &options());
    let mut again = opened.unwrap();
    assert_eq!(again.lora(), &lora);
    assert_eq!(judged(&mut again, &texts), want);
    // The decoder, which keeps adapters in 16 bits, has the same scale.
    let logs = common::decoder_log_probabilities(scratch.path(), &texts[0].tokens);
    let counts = &texts[0].weights;
    for ((got, want), weight) in logs.iter().zip(&want.log_probabilities[0]).zip(counts) {
        assert!(*weight == 0.0 || (got - want).abs() < 2e-2, "{got} {want}");
    }
    // With another scale its weights would mean something else.
    let plain = LoraConfig {
        rank_stabilized: false,
        ..lora
    };
    let refused = trainer(plain).load_adapter(scratch.path()).unwrap_err();
    assert!(
        refused.to_string().contains("rank stabilization"),
        "{refused}"
    );
}

/// Writes the adapter of `llama` with another configuration.
fn write_changed(to: &Path, change: impl FnOnce(&mut Value)) {
    let from = here("llama");
    std::fs::copy(from.join(WEIGHTS), to.join(WEIGHTS)).unwrap();
    let mut config = config(&from);
    change(&mut config);
    std::fs::write(to.join(CONFIG), config.to_string()).unwrap();
}

#[test]
fn an_adapter_whose_layers_differ_in_scale_is_not_gone_on_from() {
    let scratch = tempfile::tempdir().unwrap();
    for (setting, value, named) in [
        (
            "alpha_pattern",
            json!({"layers.1.self_attn.q_proj": 12}),
            "model.layers.1.self_attn.q_proj",
        ),
        (
            "alpha_pattern",
            json!({"q_proj": 6, ".*up_proj": 3.5}),
            "model.layers.0.mlp.up_proj",
        ),
        (
            "rank_pattern",
            json!({"layers.1.mlp.down_proj": 2}),
            "model.layers.1.mlp.down_proj",
        ),
    ] {
        write_changed(scratch.path(), |config| config[setting] = value);
        let opened = Trainer::open_adapter(base("llama"), scratch.path(), &options());
        let mut other = trainer(seed_lora());
        let before = other.weights().to_vec();
        let loaded = other.load_adapter(scratch.path());
        for error in [opened.unwrap_err(), loaded.unwrap_err()] {
            let says = error.to_string();
            assert!(
                matches!(error, TrainError::Adapter(AdapterError::Unsupported { .. })),
                "{says}"
            );
            assert!(says.contains(named), "{setting}: {says}");
        }
        assert_eq!(other.weights(), before);
    }
    // What a pattern says as it is anyway, or of layers that are none here, changes nothing.
    write_changed(scratch.path(), |config| {
        config["alpha_pattern"] = json!({"[qkv]_proj": 6, "lm_head": 1});
        config["rank_pattern"] = json!({"down_proj": 4});
    });
    let reference = Reference::open("llama/reference.safetensors");
    let mut other = trainer(seed_lora());
    other.load_adapter(scratch.path()).unwrap();
    let got = judged(&mut other, &examples(&reference)).loss;
    let want = f64::from(reference.floats("loss")[0]);
    assert!((got / want - 1.0).abs() < 1e-5, "{got} {want}");
}
