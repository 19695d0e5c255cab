//! Tokenizers in the form of `tokenizer.json`: texts are normalized, cut and joined by the steps
//! that the file lists, in the way of the `tokenizers` library, whose parts do the work.
//!
//! The library's own way from a text to tokens is not taken, for three reasons: it knows no text of
//! which only parts may hold marks, it lets a regular expression run without bound, and where one
//! gives up it goes on with the rest uncut.

use std::collections::{HashMap, HashSet};
use std::ops::Range as Bytes;

use tokenizers::normalizer::Range;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
    OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Split, Token, Tokenizer,
};

use super::byte_level::{byte_of, missing_byte};
use super::cut::Cut;
use super::marks::{Mark, Marks};
use super::pieces::{SPACE, parse_byte};
use super::sound::{Decoding, Outline};
use super::{TokenizerError, TokenizerFiles, guarded};
use tokenizers::pre_tokenizers::split::SplitPattern;

/// Ids may leave gaps, up to this many beyond twice the number of tokens.
const GAPS: usize = 1 << 16;

/// The steps from a text to tokens.
pub(super) struct HuggingFace {
    /// Marks that are no control tokens, found in the text as it is.
    user_defined: Marks,
    /// Marks that are no control tokens, found in the normalized text.
    normalized: Marks,
    normalizer: Option<NormalizerWrapper>,
    steps: Vec<Step>,
    model: ModelWrapper,
    /// Control tokens that no text may become: all but the one for unknown text.
    forbidden: HashSet<u32>,
}

enum Step {
    Cut(Cut),
    Library(PreTokenizerWrapper),
}

/// What a file holds.
pub(super) struct Loaded {
    pub rule: HuggingFace,
    pub control: Marks,
    pub names: HashMap<u32, Box<str>>,
    pub ids: HashMap<String, u32>,
    pub bytes: Vec<Box<[u8]>>,
    pub before: Vec<u32>,
    pub after: Vec<u32>,
    pub space_prefix: bool,
}

impl HuggingFace {
    /// Reads `tokenizer.json`.
    pub fn load(files: &TokenizerFiles) -> Result<Loaded, TokenizerError> {
        let malformed = |reason: String| TokenizerError::Malformed {
            file: "tokenizer.json",
            reason,
        };
        let outline: Outline = serde_json::from_slice(&files.tokenizer)
            .map_err(|error| malformed(error.to_string()))?;
        let decoding = outline.check().map_err(malformed)?;
        let library = guarded(|| {
            let mut library = Tokenizer::from_bytes(&files.tokenizer)?;
            library.with_padding(None);
            library.with_truncation(None)?;
            Ok(library)
        });
        let library = library.map_err(malformed)?;
        if !matches!(library.get_model(), ModelWrapper::BPE(_)) {
            return Err(malformed("its model is not byte-pair encoding".to_owned()));
        }
        let ids = library.get_vocab(true);
        check_vocabulary(&ids, decoding, &library)?;
        let (before, after) = surroundings(&library).map_err(malformed)?;
        let mut steps = Vec::new();
        if let Some(all) = library.get_pre_tokenizer() {
            Step::from_library(all, &mut steps).map_err(malformed)?;
        }
        let added = library.get_added_tokens_decoder();
        let names: HashMap<u32, Box<str>> = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, token)| (id, token.content.as_str().into()))
            .collect();
        let of = |wanted: &dyn Fn(&tokenizers::AddedToken) -> bool| {
            // In the order of ids, so that of two equal ones always the same counts.
            let mut found: Vec<_> = added.iter().filter(|(_, token)| wanted(token)).collect();
            found.sort_by_key(|(id, _)| **id);
            found
        };
        let control = of(&|token| token.special);
        let plain = of(&|token| !token.special && !token.normalized);
        let normalized = of(&|token| !token.special && token.normalized);
        let mut contents = Vec::new();
        for (&id, token) in normalized {
            let mut content = NormalizedString::from(token.content.as_str());
            if let Some(normalizer) = library.get_normalizer() {
                guarded(|| normalizer.normalize(&mut content)).map_err(malformed)?;
            }
            contents.push((content.get().to_owned(), mark(id, token)));
        }
        let bytes = token_bytes(&ids, &names, decoding)?;
        let unknown = unknown_token(&library).and_then(|token| ids.get(token));
        let forbidden = names.keys().filter(|id| Some(*id) != unknown).copied();
        let as_marks = |found: Vec<(&u32, &tokenizers::AddedToken)>| {
            let marks = found.into_iter();
            Marks::from_texts(marks.map(|(&id, token)| (token.content.as_str(), mark(id, token))))
        };
        Ok(Loaded {
            control: as_marks(control),
            rule: Self {
                user_defined: as_marks(plain),
                normalized: Marks::from_texts(
                    contents.iter().map(|(text, mark)| (text.as_str(), *mark)),
                ),
                normalizer: library.get_normalizer().cloned(),
                steps,
                model: library.get_model().clone(),
                forbidden: forbidden.collect(),
            },
            names,
            bytes,
            before,
            after,
            ids,
            space_prefix: decoding.space_prefix,
        })
    }

    /// Appends the tokens of `text` to `out`. Control tokens lie at `spans`.
    pub fn encode(
        &self,
        text: &str,
        spans: &[(Bytes<usize>, u32)],
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let parts = guarded(|| {
            let mut parts = PreTokenizedString::from(text);
            parts.split(|_, text| Ok(cut_out(&text, spans)))?;
            parts.split(|_, text| {
                let spans = whole(&self.user_defined, text.get());
                Ok(cut_out(&text, &spans))
            })?;
            parts.split(|_, mut text| {
                if let Some(normalizer) = &self.normalizer {
                    normalizer.normalize(&mut text)?;
                }
                let spans = whole(&self.normalized, text.get());
                Ok(cut_out(&text, &spans))
            })?;
            for step in &self.steps {
                match step {
                    Step::Cut(cut) => cut.apply(&mut parts)?,
                    Step::Library(step) => step.pre_tokenize(&mut parts)?,
                }
            }
            parts.tokenize(|part| {
                let tokens = self.model.tokenize(part.get())?;
                match tokens
                    .iter()
                    .any(|token| self.forbidden.contains(&token.id))
                {
                    true => Err("its merges make a control token of plain text".into()),
                    false => Ok(tokens),
                }
            })?;
            Ok(parts)
        });
        let parts = parts.map_err(TokenizerError::Refused)?;
        let parts = parts.get_splits(OffsetReferential::Original, OffsetType::None);
        let tokens = parts.into_iter().flat_map(|(_, _, tokens)| tokens);
        out.extend(tokens.flatten().map(|token| token.id));
        Ok(())
    }
}

impl Step {
    /// Appends the steps of `step`.
    fn from_library(step: &PreTokenizerWrapper, out: &mut Vec<Self>) -> Result<(), String> {
        match step {
            PreTokenizerWrapper::Sequence(steps) => {
                for step in steps.as_ref() {
                    Self::from_library(step, out)?;
                }
            }
            PreTokenizerWrapper::Split(split) => match &split.pattern {
                SplitPattern::Regex(expression) => {
                    out.push(Self::Cut(Cut::new(
                        expression,
                        split.behavior,
                        split.invert,
                    )?));
                }
                SplitPattern::String(_) => out.push(Self::Library(step.clone())),
            },
            _ => out.push(Self::Library(step.clone())),
        }
        Ok(())
    }
}

fn whole(marks: &Marks, text: &str) -> Vec<(Bytes<usize>, u32)> {
    marks.spans(text, std::slice::from_ref(&(0..text.len())))
}

/// Cuts `text` at `spans`, which have their tokens from then on.
fn cut_out(text: &NormalizedString, spans: &[(Bytes<usize>, u32)]) -> Vec<Split> {
    let mut parts = Vec::with_capacity(2 * spans.len() + 1);
    let mut done = 0;
    let slice = |range: Bytes<usize>| text.slice(Range::Normalized(range));
    for (span, id) in spans {
        parts.extend(slice(done..span.start).map(Split::from));
        let token = Token::new(*id, String::new(), (0, 0));
        parts.extend(slice(span.clone()).map(|part| Split::from((part, Some(vec![token])))));
        done = span.end;
    }
    parts.extend(slice(done..text.get().len()).map(Split::from));
    parts
}

fn mark(id: u32, token: &tokenizers::AddedToken) -> Mark {
    Mark {
        id,
        takes_before: token.lstrip,
        takes_after: token.rstrip,
        single_word: token.single_word,
    }
}

/// Checks that every text has tokens, and no two tokens one id.
fn check_vocabulary(
    ids: &HashMap<String, u32>,
    decoding: Decoding,
    library: &Tokenizer,
) -> Result<(), TokenizerError> {
    let unsound = |reason| Err(TokenizerError::Vocabulary(reason));
    let greatest = ids.values().max().map_or(0, |&id| id as usize);
    if ids.is_empty() || greatest > 2 * ids.len() + GAPS {
        return unsound(format!(
            "it has {} tokens, the greatest of which is {greatest}",
            ids.len()
        ));
    }
    let mut taken = vec![false; greatest + 1];
    for &id in ids.values() {
        if std::mem::replace(&mut taken[id as usize], true) {
            return unsound(format!("two of its tokens are {id}"));
        }
    }
    if decoding.letters_are_bytes {
        return match missing_byte(|letter| ids.contains_key(letter)) {
            Some(byte) => unsound(format!(
                "it has no token for byte {byte}, so some texts cannot be expressed"
            )),
            None => Ok(()),
        };
    }
    let unknown = unknown_token(library).is_some_and(|token| ids.contains_key(token));
    let falls_back = matches!(library.get_model(), ModelWrapper::BPE(model) if model.byte_fallback);
    let bytes = (0..=u8::MAX).all(|byte| ids.contains_key(&format!("<0x{byte:02X}>")));
    if !(falls_back && bytes || unknown) {
        return unsound("it has no token for unknown text, and not one for every byte".to_owned());
    }
    Ok(())
}

fn unknown_token(library: &Tokenizer) -> Option<&String> {
    match library.get_model() {
        ModelWrapper::BPE(model) => model.unk_token.as_ref(),
        _ => None,
    }
}

/// The tokens that stand before and after a whole text.
fn surroundings(library: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let (plain, full) = guarded(|| {
        let plain = library.encode_fast("a", false)?.get_ids().to_vec();
        let full = library.encode_fast("a", true)?.get_ids().to_vec();
        Ok((plain, full))
    })?;
    let at = full
        .windows(plain.len().max(1))
        .position(|part| part == plain);
    let Some(at) = at.filter(|_| !plain.is_empty() && full.len() < plain.len() + 16) else {
        return Err("the tokens of a text do not appear between its special tokens".to_owned());
    };
    Ok((full[..at].to_vec(), full[at + plain.len()..].to_vec()))
}

/// What each token stands for.
fn token_bytes(
    ids: &HashMap<String, u32>,
    control: &HashMap<u32, Box<str>>,
    decoding: Decoding,
) -> Result<Vec<Box<[u8]>>, TokenizerError> {
    let count = ids.values().max().map_or(0, |&id| id as usize + 1);
    let mut bytes = vec![Box::default(); count];
    for (text, &id) in ids {
        if control.contains_key(&id) {
            continue;
        }
        bytes[id as usize] = if decoding.letters_are_bytes {
            let letters = text.chars().map(byte_of).collect::<Option<_>>();
            letters.unwrap_or_else(|| text.as_bytes().into())
        } else if let Some(byte) = parse_byte(text).filter(|_| decoding.byte_tokens) {
            Box::from([byte])
        } else if decoding.marked_spaces {
            text.replace(SPACE, " ").into_bytes().into()
        } else {
            text.as_bytes().into()
        };
    }
    Ok(bytes)
}
