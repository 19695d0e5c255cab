//! What a `tokenizer.json` may ask for: the steps that decoder models use, as long as they take
//! time and memory in proportion to the text.

use serde::Deserialize;
use serde_json::Value;

use super::cut;

/// How many times longer a text may become on its way.
const GROWTH: f64 = 32.0;
/// Steps, and steps within steps.
const STEPS: usize = 64;

/// What is looked at before the library reads the whole file.
#[derive(Deserialize)]
pub(super) struct Outline {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// How the text of a token in the vocabulary becomes what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Decoding {
    /// Each letter stands for a byte.
    pub letters_are_bytes: bool,
    /// `▁` stands for a space.
    pub marked_spaces: bool,
    /// `<0x0A>` stands for a byte.
    pub byte_tokens: bool,
    /// A space before a text is none of it.
    pub space_prefix: bool,
}

impl Outline {
    /// Checks everything but the vocabulary, and says how tokens become text.
    ///
    /// # Errors
    /// What is asked for that is not supported.
    pub fn check(&self) -> Result<Decoding, String> {
        if let Some(kind) = self.model.kind.as_deref().filter(|kind| *kind != "BPE") {
            return Err(format!(
                "its model is of type {kind:.32}; only byte-pair encoding (BPE) is supported"
            ));
        }
        if self.model.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err("its model leaves out merges by chance (dropout)".to_owned());
        }
        let affixes = [
            &self.model.continuing_subword_prefix,
            &self.model.end_of_word_suffix,
        ];
        if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
            return Err("its model marks parts of words, which is not supported".to_owned());
        }
        let mut growth = 1.0;
        for step in steps(self.normalizer.as_ref(), "normalizers")? {
            growth *= growth_of(step)?;
        }
        if growth > GROWTH {
            return Err(format!(
                "its normalizer can make a text {growth:.0} times longer; at most {GROWTH} are \
                 taken"
            ));
        }
        for step in steps(self.pre_tokenizer.as_ref(), "pretokenizers")? {
            match kind(step) {
                "Split" => check_pattern(step)?,
                "ByteLevel" | "Metaspace" | "Digits" | "Punctuation" => {}
                other => {
                    return Err(format!(
                        "it cuts texts by {other:.32}, which is not supported"
                    ));
                }
            }
        }
        self.decoding()
    }

    fn decoding(&self) -> Result<Decoding, String> {
        let mut decoding = Decoding::default();
        for step in steps(self.decoder.as_ref(), "decoders")? {
            match kind(step) {
                "ByteLevel" => decoding.letters_are_bytes = true,
                "ByteFallback" => decoding.byte_tokens = true,
                "Fuse" => {}
                "Metaspace" => {
                    if step["replacement"].as_str() != Some("▁") {
                        return Err("its decoder marks spaces by another sign than ▁".to_owned());
                    }
                    decoding.marked_spaces = true;
                    decoding.space_prefix = step["prepend_scheme"].as_str() != Some("never")
                        && step["add_prefix_space"].as_bool() != Some(false);
                }
                "Replace" => {
                    let pair = (step["pattern"]["String"].as_str(), step["content"].as_str());
                    if pair != (Some("▁"), Some(" ")) {
                        return Err(
                            "its decoder replaces other things than ▁ by a space".to_owned()
                        );
                    }
                    decoding.marked_spaces = true;
                }
                "Strip" => {
                    let ends = (
                        step["content"].as_str(),
                        step["start"].as_u64(),
                        step["stop"].as_u64(),
                    );
                    if ends != (Some(" "), Some(1), Some(0)) {
                        return Err(
                            "its decoder strips more than one space before a text".to_owned()
                        );
                    }
                    decoding.space_prefix = true;
                }
                other => {
                    return Err(format!(
                        "its decoder is {other:.32}, which is not supported"
                    ));
                }
            }
        }
        let in_letters = steps(self.pre_tokenizer.as_ref(), "pretokenizers")?
            .into_iter()
            .any(|step| kind(step) == "ByteLevel");
        if in_letters != decoding.letters_are_bytes {
            return Err("its decoder does not undo what its pre-tokenizer does".to_owned());
        }
        Ok(decoding)
    }
}

/// A step or the steps of a sequence, in order.
fn steps<'a>(step: Option<&'a Value>, list: &str) -> Result<Vec<&'a Value>, String> {
    let mut found = Vec::new();
    let mut left: Vec<&Value> = step.into_iter().filter(|step| !step.is_null()).collect();
    while let Some(step) = left.pop() {
        if found.len() + left.len() > STEPS {
            return Err(format!("it lists more than {STEPS} steps"));
        }
        match (kind(step), step[list].as_array()) {
            ("Sequence", Some(inner)) => left.extend(inner.iter().rev()),
            ("Sequence", None) => return Err(format!("a sequence has no {list}")),
            _ => found.push(step),
        }
    }
    Ok(found)
}

fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or("nothing")
}

/// How many times longer a step can make a text of a letter or more.
fn growth_of(step: &Value) -> Result<f64, String> {
    let length = |text: Option<&str>| text.map_or(0, str::len) as f64;
    match kind(step) {
        "NFC" | "NFD" | "Lowercase" => Ok(1.0),
        "NFKC" | "NFKD" => Ok(2.0),
        "Prepend" => Ok(1.0 + length(step["prepend"].as_str())),
        "Replace" => {
            let (content, pattern) = (&step["content"], &step["pattern"]["String"]);
            match length(pattern.as_str()) {
                0.0 => {
                    Err("it replaces what is not a plain text, which is not supported".to_owned())
                }
                pattern => Ok((length(content.as_str()) / pattern).max(1.0)),
            }
        }
        other => Err(format!(
            "it normalizes texts by {other:.32}, which is not supported"
        )),
    }
}

fn check_pattern(step: &Value) -> Result<(), String> {
    match (&step["pattern"]["Regex"], &step["pattern"]["String"]) {
        (Value::String(expression), Value::Null) => cut::check(expression),
        (Value::Null, Value::String(text)) if !text.is_empty() => Ok(()),
        _ => Err("a step has no pattern".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(outline: Value) -> Result<Decoding, String> {
        serde_json::from_value::<Outline>(outline).unwrap().check()
    }

    #[test]
    fn steps_that_models_use_are_taken() {
        let decoding = check(json!({
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "dropout": null},
        }));
        let expected = Decoding {
            letters_are_bytes: false,
            marked_spaces: true,
            byte_tokens: true,
            space_prefix: true,
        };
        assert_eq!(decoding, Ok(expected));
    }

    #[test]
    fn what_grows_or_is_not_known_is_refused() {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let many = vec![double; 30];
        let growing = json!({"type": "Sequence", "normalizers": many});
        let reason = check(json!({"normalizer": growing, "model": {}})).unwrap_err();
        assert!(reason.contains("times longer"), "{reason}");
        let nested = (0..100).fold(
            json!({"type": "NFC"}),
            |inner, _| json!({"type": "Sequence", "normalizers": [inner.clone(), {"type": "NFC"}]}),
        );
        assert!(check(json!({"normalizer": nested, "model": {}})).is_err());
        for outline in [
            json!({"model": {"type": "WordPiece"}}),
            json!({"model": {"dropout": 0.1}}),
            json!({"model": {"end_of_word_suffix": "</w>"}}),
            json!({"model": {}, "pre_tokenizer": {"type": "BertPreTokenizer"}}),
            json!({"model": {}, "pre_tokenizer": {"type": "ByteLevel"}}),
            json!({"model": {}, "pre_tokenizer": {"type": "Split", "pattern": {}}}),
            json!({"model": {}, "pre_tokenizer": 7}),
            json!({"model": {}, "normalizer": {"type": "Precompiled"}}),
            json!({"model": {}, "decoder": {"type": "WordPiece"}}),
            json!({"model": {}, "decoder": {"type": "Strip", "content": "x", "start": 1, "stop": 0}}),
        ] {
            assert!(check(outline.clone()).is_err(), "{outline}");
        }
    }
}
