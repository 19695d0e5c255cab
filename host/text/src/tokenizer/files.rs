//! The files of a model's folder that say how its tokenizer works.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use skep_weights::gguf::SpecialTokens;

use super::TokenizerError;

/// A file is read up to this many bytes; those of large vocabularies have half of it.
const FILE_LIMIT: u64 = 64 << 20;

/// What the files of a folder hold.
#[derive(Debug, Clone, Default)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: the vocabulary and the steps from a text to tokens.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`: which tokens begin and end a text.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`: the same, where the file before does not say.
    pub special_tokens_map: Option<Vec<u8>>,
    /// `generation_config.json`: which tokens end a text that a model writes.
    pub generation_config: Option<Vec<u8>>,
    /// `config.json` of the model: the same.
    pub config: Option<Vec<u8>>,
}

impl TokenizerFiles {
    /// Reads the files of a folder, of which only `tokenizer.json` has to be there.
    ///
    /// # Errors
    /// When a file cannot be read or has more than 64 MiB.
    pub fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let tokenizer = read(&path)?.ok_or_else(|| TokenizerError::Read {
            file: path.display().to_string(),
            reason: "there is no such file".to_owned(),
        })?;
        Ok(Self {
            tokenizer,
            tokenizer_config: read(&folder.join("tokenizer_config.json"))?,
            special_tokens_map: read(&folder.join("special_tokens_map.json"))?,
            generation_config: read(&folder.join("generation_config.json"))?,
            config: read(&folder.join("config.json"))?,
        })
    }

    /// The tokens with a role, and the tokens that end a text, given the id of each token's text
    /// and their number. Tokens that are not in the vocabulary are left out.
    pub(super) fn special_tokens(
        &self,
        ids: &HashMap<String, u32>,
        vocabulary: usize,
    ) -> Result<(SpecialTokens, Vec<u32>), TokenizerError> {
        let config: Named = parse("tokenizer_config.json", self.tokenizer_config.as_deref())?;
        let map: Named = parse(
            "special_tokens_map.json",
            self.special_tokens_map.as_deref(),
        )?;
        let generation: Numbered =
            parse("generation_config.json", self.generation_config.as_deref())?;
        let model: Numbered = parse("config.json", self.config.as_deref())?;
        let id = |first: &Value, second: &Value| {
            let text = text_of(first).or_else(|| text_of(second))?;
            ids.get(text).copied()
        };
        let numbered = |value: &Value| -> Vec<u32> {
            let numbers = match value {
                Value::Array(numbers) => numbers.as_slice(),
                number => std::slice::from_ref(number),
            };
            let ids = numbers.iter().filter_map(|number| number.as_u64());
            ids.filter(|&id| id < vocabulary as u64)
                .map(|id| id as u32)
                .collect()
        };
        let ends = [
            numbered(&generation.eos_token_id),
            numbered(&model.eos_token_id),
        ]
        .concat();
        let begins = [
            numbered(&generation.bos_token_id),
            numbered(&model.bos_token_id),
        ]
        .concat();
        let special = SpecialTokens {
            bos: id(&config.bos_token, &map.bos_token).or(begins.first().copied()),
            eos: id(&config.eos_token, &map.eos_token).or(ends.first().copied()),
            unknown: id(&config.unk_token, &map.unk_token),
            padding: id(&config.pad_token, &map.pad_token),
            ..SpecialTokens::default()
        };
        let ends = special.eos.into_iter().chain(ends).collect();
        Ok((special, ends))
    }
}

/// Tokens by their text: a string, or an object with it as `content`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    bos_token: Value,
    eos_token: Value,
    unk_token: Value,
    pad_token: Value,
}

/// Tokens by their ids: a number or several.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Numbered {
    bos_token_id: Value,
    eos_token_id: Value,
}

/// The text of a token in `tokenizer_config.json`.
pub(crate) fn text_of(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn parse<T: Default + for<'de> Deserialize<'de>>(
    file: &'static str,
    content: Option<&[u8]>,
) -> Result<T, TokenizerError> {
    let Some(content) = content else {
        return Ok(T::default());
    };
    serde_json::from_slice(content).map_err(|error| TokenizerError::Malformed {
        file,
        reason: error.to_string(),
    })
}

/// The content of a file, or nothing where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    let refused = |reason: String| TokenizerError::Read {
        file: path.display().to_string(),
        reason,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error.to_string())),
    };
    let mut content = Vec::new();
    file.take(FILE_LIMIT + 1)
        .read_to_end(&mut content)
        .map_err(|error| refused(error.to_string()))?;
    if content.len() as u64 > FILE_LIMIT {
        return Err(refused(format!("it has more than {FILE_LIMIT} bytes")));
    }
    Ok(Some(content))
}
