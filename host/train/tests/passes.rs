//! What differs between passes that are learned from and those that are not, and between what the
//! former keep.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
mod common;

use common::{Reference, base, examples, here, options, seed_lora};
use skep_accounts::Account;
use skep_train::{
    Checkpointing, Divisor, Example, LoraConfig, Loss, Outcome, Sampling, Trainer, TrainerOptions,
};

fn judged(trainer: &mut Trainer, texts: &[Example]) -> Outcome {
    trainer
        .evaluate(texts, Loss::CrossEntropy, Divisor::Own)
        .unwrap()
}

fn learned(trainer: &mut Trainer, texts: &[Example]) -> f64 {
    let done = trainer.forward_backward(texts, Loss::CrossEntropy, Divisor::Own);
    done.unwrap().loss
}

/// With half of its inputs dropped an adapter is judged as the same one without, bit for bit.
#[test]
fn nothing_is_dropped_where_nothing_is_learned() {
    let texts = examples(&Reference::open("llama/reference.safetensors"));
    let open = |dropout| {
        let lora = LoraConfig {
            dropout,
            ..seed_lora()
        };
        let mut trainer = Trainer::open(base("llama"), lora, &options()).unwrap();
        trainer.load_adapter(&here("llama")).unwrap();
        trainer
    };
    let (mut whole, mut dropping) = (open(0.0), open(0.5));
    let want = judged(&mut whole, &texts);
    assert_eq!(judged(&mut dropping, &texts), want);
    // In training inputs are dropped, others in every batch.
    assert_eq!(learned(&mut whole, &texts), want.loss);
    let losses = [(); 2].map(|()| learned(&mut dropping, &texts));
    assert!(
        losses[0] != losses[1] && !losses.contains(&want.loss),
        "{losses:?} {}",
        want.loss
    );
    for _ in 0..2 {
        assert_eq!(judged(&mut dropping, &texts), want);
    }
    let how = Sampling {
        temperature: 0.0,
        seed: 0,
        tokens: 8,
        end: None,
    };
    let prompt = &texts[0].tokens;
    assert_eq!(
        dropping.sample(prompt, &how).unwrap(),
        whole.sample(prompt, &how).unwrap()
    );
    assert_eq!(
        dropping.reference_log_probabilities(&texts).unwrap(),
        whole.reference_log_probabilities(&texts).unwrap()
    );
}

/// Of three layers that are kept whole two make room where only their inputs are, and what is
/// computed again is the same.
#[test]
fn layers_that_are_computed_again_take_less_memory() {
    let text = |n: u32| Example {
        tokens: (0..400)
            .map(|place| 3 + (37 * n + 11 * place) % 157)
            .collect(),
        ..Example::default()
    };
    let texts = [0, 1].map(text);
    let run = |checkpointing| {
        let account = Account::unlimited();
        let options = TrainerOptions {
            account: account.clone(),
            checkpointing,
            ..options()
        };
        let mut trainer = Trainer::open(base("gemma3"), seed_lora(), &options).unwrap();
        trainer.load_adapter(&here("gemma3")).unwrap();
        let loss = learned(&mut trainer, &texts);
        let peak = account.usage().device_bytes_peak;
        (peak, (loss, trainer.gradients().to_vec()))
    };
    let (whole, want) = run(Checkpointing::None);
    let (less, got) = run(Checkpointing::Layers);
    println!("{whole} bytes with all kept, {less} with layers computed again");
    // Of each token a layer keeps some 500 numbers: half of that of one layer is certain.
    assert!(less + 800 * 250 * 4 < whole, "{less} {whole}");
    assert!(got == want, "other gradients");
}
