//! What is said of the adapter to people: the model card.

use std::fmt::Write;

use crate::bindings::skep::train::training::TrainerInfo;
use crate::settings::Settings;
use crate::training::{Seen, State};

/// What the model writes to a prompt that was held out, once it is trained.
pub struct Sample {
    /// The end of the prompt.
    pub prompt: String,
    /// What it writes.
    pub text: String,
}

/// The card, in Markdown.
pub fn write(
    info: &TrainerInfo,
    settings: &Settings,
    seen: &Seen,
    state: &State,
    samples: &[Sample],
) -> String {
    let mut card = format!("# An adapter of {}\n\n", info.base_name);
    let mut line = |text: String| {
        // A string takes everything.
        let _ = writeln!(card, "{text}");
    };
    let (kind, losses) = match seen.classes {
        0 => ("language model", "tokens"),
        _ => ("sentence encoder", "texts"),
    };
    let change = match settings.dora {
        true => "A low-rank change with learned magnitudes (DoRA)",
        false => "A low-rank change (LoRA)",
    };
    line(format!(
        "{change} of the {kind} {} (`{}`), with {} parameters, made by the recipe `fine-tune`.\n",
        info.base_name, info.base, info.parameters
    ));
    if seen.classes > 0 {
        line(format!(
            "A linear layer over what the encoder pools of a text tells {} classes apart; \
             `lineage.json` has their names in order.\n",
            seen.classes
        ));
    }
    line("## What it learned from\n".to_owned());
    line(format!(
        "{} examples, and {} that were held out. The examples are not part of the adapter.\n",
        seen.training, seen.held_out
    ));
    line("## What came of it\n".to_owned());
    line("| | |\n|---|---|".to_owned());
    line(format!("| steps | {} of {} |", state.step, seen.steps));
    line(format!("| tokens | {} |", state.tokens));
    if let (Some(before), Some(best)) = (state.before, &state.best) {
        line(format!("| held-out loss before | {before:.4} |"));
        line(format!(
            "| held-out loss after | {:.4}, of step {} |",
            best.loss, best.step
        ));
    }
    if let Some(share) = state.best.as_ref().and_then(|best| best.accuracy) {
        line(format!("| held-out accuracy after | {share:.4} |"));
    }
    if let Some(tested) = &seen.tested {
        line(format!(
            "| tests, which were not looked at before | {} |",
            seen.test
        ));
        line(format!("| loss on them | {:.4} |", tested.loss));
        if let Some(share) = tested.accuracy {
            line(format!("| accuracy on them | {share:.4} |"));
        }
    }
    if let Some(loss) = state.loss {
        line(format!("| loss of the last batch | {loss:.4} |"));
    }
    line(format!(
        "\nLosses are means over {losses} of the negative natural logarithm.\n"
    ));
    line("## How it was trained\n".to_owned());
    line("| | |\n|---|---|".to_owned());
    for (name, value) in settings.told() {
        line(format!("| {name} | {value} |"));
    }
    if !samples.is_empty() {
        line("\n## What it writes\n".to_owned());
    }
    for Sample { prompt, text } in samples {
        line(format!(
            "```text\n… {}\n→ {}\n```\n",
            plain(prompt),
            plain(text)
        ));
    }
    card
}

/// A text that ends no block of a card.
fn plain(text: &str) -> String {
    text.replace("```", "'''").trim().to_owned()
}
