//! Learns a vocabulary of byte pairs for a model that has none, from the texts that it is to learn.

use anyhow::{Context as _, Result, anyhow};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, Trainer as _,
};

/// The pairs that a text is made of, the first of which was merged first, as many as make so many
/// tokens with the 256 bytes. Bytes are written as GPT-2 writes them.
///
/// # Errors
/// When the library cannot divide the text.
pub fn learn(text: &str, tokens: usize) -> Result<Vec<(String, String)>> {
    let pairs = learned(text, tokens).map_err(|error| anyhow!("byte pairs: {error}"))?;
    let pairs = pairs["merges"]
        .as_array()
        .context("no pairs were learned")?;
    let pairs = pairs.iter().map(|pair| {
        let part = |at: usize| pair[at].as_str().map(str::to_owned);
        part(0).zip(part(1)).context("a pair that is none")
    });
    pairs.collect()
}

fn learned(text: &str, tokens: usize) -> tokenizers::Result<serde_json::Value> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(tokens)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let words = ByteLevel::new(false, true, true);
    trainer.feed(text.lines(), |line| {
        let mut divided = PreTokenizedString::from(line);
        words.pre_tokenize(&mut divided)?;
        let parts = divided.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(parts
            .into_iter()
            .map(|(word, ..)| word.to_owned())
            .collect())
    })?;
    let mut model = BPE::default();
    trainer.train(&mut model)?;
    Ok(serde_json::to_value(&model)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The words of Sennrich et al., arXiv 1508.07909, section 3.2: `low` five times, `lower` twice,
    /// `newest` six times, `widest` three times.
    #[test]
    fn a_publication_s_words_are_merged_as_there() {
        let words = [("low", 5), ("lower", 2), ("newest", 6), ("widest", 3)];
        let lines = words
            .iter()
            .flat_map(|(word, count)| std::iter::repeat_n(*word, *count));
        let text: Vec<&str> = lines.collect();
        let pairs = learn(&text.join("\n"), 256 + 4).unwrap();
        let told: Vec<String> = pairs.iter().map(|(a, b)| format!("{a}+{b}")).collect();
        assert_eq!(told, ["e+s", "es+t", "l+o", "lo+w"]);
    }
}
