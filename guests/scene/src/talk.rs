//! Small talk: sentences that claim nothing, made of words that name nothing of the village.
//!
//! The words are those of the voices' own small talk. None of them is the name of a person, a
//! place, an item, a time or a weather, none is a number, and none says who has, gives, sells,
//! wants or owes something or that something is true: the tests hold the voices to it. So
//! whatever such words are put together to, nothing in the village's state is spoken of by name.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::voices::VOICES;

/// Words in a sentence of small talk at most.
pub const WORDS: usize = 16;

/// The words of small talk, as they are written within a sentence.
pub fn lexicon() -> &'static BTreeSet<String> {
    static LEXICON: OnceLock<BTreeSet<String>> = OnceLock::new();
    LEXICON.get_or_init(|| sentences().flat_map(words).collect())
}

/// Every sentence of small talk of every voice.
pub fn sentences() -> impl Iterator<Item = &'static str> {
    let banks = VOICES.iter().flat_map(|voice| voice.talk);
    let talk = banks.flat_map(|(_, talk)| talk.iter().copied());
    talk.flat_map(crate::reply::sentences)
}

/// Whether a sentence, with its full stop, is small talk; if not, the first word that is none.
///
/// # Errors
/// The word, or the whole sentence if its length or its marks are wrong.
pub fn check(sentence: &str) -> Result<(), String> {
    let body = sentence.strip_suffix(['.', '!', '?']);
    let body = body.ok_or_else(|| sentence.to_owned())?;
    let mut count = 0;
    for (place, word) in body.split(' ').enumerate() {
        let word = word.strip_suffix(',').unwrap_or(word);
        if !admitted(word, place == 0) {
            return Err(word.to_owned());
        }
        count += 1;
    }
    if count > WORDS || body.ends_with(',') {
        return Err(sentence.to_owned());
    }
    Ok(())
}

fn admitted(word: &str, first: bool) -> bool {
    let begins = first && word.starts_with(|letter: char| letter.is_ascii_uppercase());
    if begins && !is_i(word) {
        return lexicon().contains(&lowered(word));
    }
    !first && lexicon().contains(word) || first && is_i(word) && lexicon().contains(word)
}

/// Whether the word has a large letter wherever it stands.
fn is_i(word: &str) -> bool {
    word == "I" || word.starts_with("I'")
}

/// The words of a sentence as they are written within one.
fn words(sentence: &str) -> Vec<String> {
    let body = sentence.trim_end_matches(['.', '!', '?']);
    let words = body.split(' ').map(|word| word.trim_end_matches(','));
    let inside = words.enumerate().map(|(place, word)| {
        if place == 0 && !is_i(word) {
            lowered(word)
        } else {
            word.to_owned()
        }
    });
    inside.collect()
}

/// The word with its first letter small.
fn lowered(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}
