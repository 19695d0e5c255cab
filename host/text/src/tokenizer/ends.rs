//! Which tokens end a text.

use std::collections::HashMap;

/// Control tokens that end a turn or a text, by the names that models give them. A file often
/// lists only one of them, and a model that writes another would go on for ever.
const NAMES: &[&str] = &[
    "</s>",
    "<eos>",
    "<EOS>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<|eot|>",
];

/// The tokens that the model's files name and those that end a text by their name, in order and
/// each once.
pub(super) fn end_tokens(
    named: impl Iterator<Item = u32>,
    control: &HashMap<u32, Box<str>>,
) -> Vec<u32> {
    let known = control
        .iter()
        .filter(|(_, name)| NAMES.contains(&&***name))
        .map(|(&id, _)| id);
    let mut tokens: Vec<u32> = named.chain(known).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}
