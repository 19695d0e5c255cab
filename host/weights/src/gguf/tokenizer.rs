//! The tokenizer that a GGUF file's metadata describe, as data.
//!
//! Here the description is read and held against itself; what cuts texts into tokens by it is
//! built elsewhere.

use super::{FromMetadata, GgufError, Metadata, MetadataArray};

/// The largest vocabularies have a quarter of a million tokens.
const TOKEN_LIMIT: usize = 1 << 21;
const MERGE_LIMIT: usize = 1 << 22;

/// How a tokenizer joins pieces into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerKind {
    /// `llama`: sentencepiece's, where the pair whose joined piece has the best score is joined
    /// first, and bytes that no piece covers have tokens of their own.
    Llama,
    /// `gpt2`: byte-level byte-pair encoding, where the pair that comes first in the list of
    /// merges is joined first.
    Gpt2,
}

/// What kind of token a token is, as sentencepiece has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// What stands for text that has no tokens.
    Unknown,
    /// A mark that no text contains, such as the beginning of a text.
    Control,
    /// A text that is always one token.
    UserDefined,
    /// Never used.
    Unused,
    /// A single byte, written `<0x0A>`.
    Byte,
}

/// Tokens with a role. Each, where there is one, lies in the vocabulary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Ends a message of a conversation.
    pub eom: Option<u32>,
    /// Stands for what has no tokens.
    pub unknown: Option<u32>,
    /// Parts two texts.
    pub separator: Option<u32>,
    /// Fills a batch.
    pub padding: Option<u32>,
}

/// A tokenizer's description, sound in itself: every list has one entry for each token where it
/// has to, and every id lies in the vocabulary.
#[derive(Debug, Clone)]
pub struct GgufTokenizer {
    /// How pieces are joined.
    pub kind: TokenizerKind,
    /// The name of the rule by which a text is cut before pieces are joined (`llama-bpe`,
    /// `qwen2`, …).
    pub pre: Option<String>,
    /// The tokens, by id.
    pub tokens: Vec<String>,
    /// What kind each token is, by id; all normal where the file does not say.
    pub kinds: Vec<TokenKind>,
    /// The score of each token by id, all of them finite; empty unless the kind is
    /// [`TokenizerKind::Llama`].
    pub scores: Vec<f32>,
    /// The pairs that are joined, best first; empty unless the kind is [`TokenizerKind::Gpt2`].
    pub merges: Vec<(String, String)>,
    /// Tokens with a role.
    pub special: SpecialTokens,
    /// Whether every text is begun with `special.bos`. Where the file does not say, none.
    pub add_bos: Option<bool>,
    /// Whether every text is ended with `special.eos`. Where the file does not say, none.
    pub add_eos: Option<bool>,
    /// Whether a space is put before a text. Where the file does not say, none.
    pub add_space_prefix: Option<bool>,
    /// The template that turns a conversation into a text, in Jinja.
    pub chat_template: Option<String>,
}

impl GgufTokenizer {
    /// Reads the description, or none if the metadata have no `tokenizer.ggml.model`.
    ///
    /// # Errors
    /// When the kind is not supported, a list has not one entry for each token, a score is not
    /// finite, a merge is no pair, or an id lies outside the vocabulary.
    pub fn read(metadata: &Metadata) -> Result<Option<Self>, GgufError> {
        let Some(model) = metadata.get::<&str>("tokenizer.ggml.model")? else {
            return Ok(None);
        };
        let unsound = |reason| unsound(metadata, reason);
        let kind = match model {
            "llama" => TokenizerKind::Llama,
            "gpt2" => TokenizerKind::Gpt2,
            other => {
                let other: String = other.chars().take(32).collect();
                return Err(unsound(format!(
                    "it is of kind {other:?}; llama and gpt2 are supported"
                )));
            }
        };
        let tokens: Vec<String> = list(metadata, "tokenizer.ggml.tokens", TOKEN_LIMIT)?
            .ok_or_else(|| unsound("it has no tokens".to_owned()))?;
        if tokens.is_empty() {
            return Err(unsound("it has no tokens".to_owned()));
        }
        let same_len = |key: &str, len: usize| match len == tokens.len() {
            true => Ok(()),
            false => Err(unsound(format!(
                "{key} has {len} entries for {} tokens",
                tokens.len()
            ))),
        };
        let kinds = match list::<i64>(metadata, "tokenizer.ggml.token_type", TOKEN_LIMIT)? {
            Some(numbers) => {
                same_len("tokenizer.ggml.token_type", numbers.len())?;
                token_kinds(&numbers).map_err(unsound)?
            }
            None => vec![TokenKind::Normal; tokens.len()],
        };
        let mut scores = Vec::new();
        let mut merges = Vec::new();
        match kind {
            TokenizerKind::Llama => {
                scores = list::<f32>(metadata, "tokenizer.ggml.scores", TOKEN_LIMIT)?
                    .ok_or_else(|| unsound("it is of kind llama but has no scores".to_owned()))?;
                same_len("tokenizer.ggml.scores", scores.len())?;
            }
            TokenizerKind::Gpt2 => {
                let pairs: Vec<&str> = list(metadata, "tokenizer.ggml.merges", MERGE_LIMIT)?
                    .ok_or_else(|| unsound("it is of kind gpt2 but has no merges".to_owned()))?;
                merges = pairs
                    .into_iter()
                    .enumerate()
                    .map(|(at, pair)| {
                        split_merge(pair)
                            .ok_or_else(|| unsound(format!("merge {at} is no pair of pieces")))
                    })
                    .collect::<Result<_, _>>()?;
            }
        }
        Ok(Some(Self {
            kind,
            pre: metadata.get("tokenizer.ggml.pre")?,
            kinds,
            scores,
            merges,
            special: SpecialTokens::read(metadata, tokens.len())?,
            add_bos: metadata.get("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.get("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.get("tokenizer.ggml.add_space_prefix")?,
            chat_template: metadata.get("tokenizer.chat_template")?,
            tokens,
        }))
    }

    /// Checks that the model has an embedding for every token.
    ///
    /// # Errors
    /// When `vocabulary`, the rows of the model's embedding table, is smaller than the number of
    /// tokens. A larger one is sound: tables are padded.
    pub fn check_vocabulary(&self, metadata: &Metadata, vocabulary: u64) -> Result<(), GgufError> {
        let tokens = self.tokens.len();
        if (tokens as u64) > vocabulary {
            return Err(unsound(
                metadata,
                format!("it has {tokens} tokens, but the model embeds {vocabulary}"),
            ));
        }
        Ok(())
    }
}

impl SpecialTokens {
    fn read(metadata: &Metadata, tokens: usize) -> Result<Self, GgufError> {
        let id = |role: &str| {
            let key = format!("tokenizer.ggml.{role}_token_id");
            // Some writers put -1, in either signedness, where there is no such token.
            let given = metadata.get::<i64>(&key)?;
            match given.filter(|&id| id != -1 && id != i64::from(u32::MAX)) {
                None => Ok(None),
                Some(id) => match u32::try_from(id) {
                    Ok(id) if (id as usize) < tokens => Ok(Some(id)),
                    _ => Err(unsound(
                        metadata,
                        format!("{key} is {id}, but there are {tokens} tokens"),
                    )),
                },
            }
        };
        Ok(Self {
            bos: id("bos")?,
            eos: id("eos")?,
            eot: id("eot")?,
            eom: id("eom")?,
            // The format's description spells these two in both ways.
            unknown: id("unknown")?,
            separator: id("seperator")?.or(id("separator")?),
            padding: id("padding")?,
        })
    }
}

/// The array at `key`, which may have up to `limit` elements.
fn list<'a, T: FromMetadata<'a>>(
    metadata: &'a Metadata,
    key: &str,
    limit: usize,
) -> Result<Option<Vec<T>>, GgufError> {
    let Some(array) = metadata.get::<MetadataArray<'_>>(key)? else {
        return Ok(None);
    };
    if array.len() > limit {
        return Err(unsound(
            metadata,
            format!(
                "{key} has {} entries; at most {limit} are read",
                array.len()
            ),
        ));
    }
    metadata.get(key)
}

fn token_kinds(numbers: &[i64]) -> Result<Vec<TokenKind>, String> {
    numbers
        .iter()
        .enumerate()
        .map(|(token, number)| match number {
            1 => Ok(TokenKind::Normal),
            2 => Ok(TokenKind::Unknown),
            3 => Ok(TokenKind::Control),
            4 => Ok(TokenKind::UserDefined),
            5 => Ok(TokenKind::Unused),
            6 => Ok(TokenKind::Byte),
            other => Err(format!(
                "token {token} is of type {other}, which there is not"
            )),
        })
        .collect()
}

/// The two pieces of a merge, parted by the first space that is not its first letter.
fn split_merge(pair: &str) -> Option<(String, String)> {
    let first = pair.chars().next()?.len_utf8();
    let at = first + pair[first..].find(' ')?;
    let (left, right) = (&pair[..at], &pair[at + 1..]);
    (!right.is_empty()).then(|| (left.to_owned(), right.to_owned()))
}

fn unsound(metadata: &Metadata, reason: String) -> GgufError {
    GgufError::Tokenizer {
        path: metadata.path().to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_is_parted_after_its_first_letter() {
        let pair = |left: &str, right: &str| Some((left.to_owned(), right.to_owned()));
        assert_eq!(split_merge("a b"), pair("a", "b"));
        assert_eq!(split_merge("  b"), pair(" ", "b"));
        assert_eq!(split_merge("é ü"), pair("é", "ü"));
        assert_eq!(split_merge("ab"), None);
        assert_eq!(split_merge("a "), None);
        assert_eq!(split_merge(""), None);
    }
}
