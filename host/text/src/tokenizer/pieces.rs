//! Sentencepiece's byte-pair encoding: of two neighbours whose joined text is a piece, those are
//! joined first whose piece has the best score, the leftmost among equals.
//!
//! After `bpe_model.cc` of sentencepiece and the tokenizer of kind `llama` in llama.cpp, which
//! agree except where a text holds user-defined pieces; there this follows sentencepiece.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use skep_weights::GgufTokenizer;
use skep_weights::gguf::TokenKind;

use super::TokenizerError;
use super::marks::Marks;

/// What stands for a space within pieces.
pub(super) const SPACE: char = '▁';
/// What sentencepiece writes for a token that stands for unknown text.
const UNKNOWN: &str = " ⁇ ";

/// A vocabulary of scored pieces.
pub(super) struct Pieces {
    ids: HashMap<Box<str>, u32>,
    scores: Vec<f32>,
    /// Pieces that are joined on the way to others but never handed out.
    unused: Vec<bool>,
    /// Pieces that are always found whole.
    user_defined: Marks,
    /// The token of each byte, where there is one.
    bytes: [Option<u32>; 256],
    unknown: u32,
}

/// A run of the text, linked to its neighbours. Empty once it was joined to the one before.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    before: Option<usize>,
    after: Option<usize>,
    /// The token, if it is a user-defined piece, which is not joined to anything.
    whole: Option<u32>,
}

/// Two neighbours that could be joined, of `len` bytes when this was noted.
struct Join {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
    id: u32,
}

impl Pieces {
    /// The vocabulary of a tokenizer of kind `llama`.
    pub fn new(description: &GgufTokenizer) -> Result<Self, TokenizerError> {
        let mut ids = HashMap::new();
        let mut bytes = [None; 256];
        let mut unknown = description.special.unknown;
        let tokens = description.tokens.iter().zip(&description.kinds);
        for (id, (text, kind)) in (0_u32..).zip(tokens) {
            match kind {
                TokenKind::Byte => {
                    let byte = parse_byte(text).ok_or_else(|| {
                        TokenizerError::Vocabulary(format!("byte token {id} is not written <0xNN>"))
                    })?;
                    bytes[usize::from(byte)] = Some(id);
                }
                TokenKind::Unknown => unknown = unknown.or(Some(id)),
                TokenKind::Control => {}
                _ => {
                    ids.entry(text.as_str().into()).or_insert(id);
                }
            }
        }
        let unknown = match unknown {
            Some(unknown) => unknown,
            None if bytes.iter().all(Option::is_some) => 0,
            None => {
                return Err(TokenizerError::Vocabulary(
                    "it has no token for unknown text, and not one for every byte".to_owned(),
                ));
            }
        };
        let kinds = description.kinds.iter();
        Ok(Self {
            ids,
            scores: description.scores.clone(),
            unused: kinds.map(|kind| *kind == TokenKind::Unused).collect(),
            // They are found in the text whose spaces are already marked, so one that is written
            // with a bare space is never found, as in sentencepiece.
            user_defined: Marks::new(description, |kind| kind == TokenKind::UserDefined),
            bytes,
            unknown,
        })
    }

    /// Appends the tokens of `text`, which is not empty, to `out`.
    pub fn encode(&self, text: &str, space_prefix: bool, out: &mut Vec<u32>) {
        let mut marked = String::with_capacity(text.len() + 3);
        if space_prefix {
            marked.push(SPACE);
        }
        marked.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let text = marked.as_str();
        let mut symbols = self.symbols(text);
        let mut joins = BinaryHeap::new();
        for right in 1..symbols.len() {
            joins.extend(self.join(text, &symbols, right - 1, right));
        }
        // Where an unused piece was joined, by its id, so that it can be taken apart again.
        let mut seams = HashMap::new();
        while let Some(join) = joins.pop() {
            let (left, right) = (symbols[join.left], symbols[join.right]);
            // One of the two may have been joined to another neighbour since.
            if left.len == 0 || right.len == 0 || left.len + right.len != join.len {
                continue;
            }
            if self.unused[join.id as usize] {
                seams.entry(join.id).or_insert(left.len);
            }
            symbols[join.left].len = join.len;
            symbols[join.left].after = right.after;
            symbols[join.right].len = 0;
            if let Some(after) = right.after {
                symbols[after].before = Some(join.left);
                joins.extend(self.join(text, &symbols, join.left, after));
            }
            if let Some(before) = left.before {
                joins.extend(self.join(text, &symbols, before, join.left));
            }
        }
        let begin = out.len();
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            match symbol.whole {
                Some(id) => out.push(id),
                None => {
                    let piece = &text[symbol.start..symbol.start + symbol.len];
                    self.emit(piece, &seams, begin, out);
                }
            }
        }
    }

    /// The letters and the user-defined pieces of `text`.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut start = 0;
        while let Some(letter) = text[start..].chars().next() {
            let whole = self.user_defined.at_start(&text[start..]);
            let len = whole.map_or(letter.len_utf8(), |(len, _)| len);
            let at = symbols.len();
            if let Some(before) = symbols.last_mut() {
                before.after = Some(at);
            }
            symbols.push(Symbol {
                start,
                len,
                before: at.checked_sub(1),
                after: None,
                whole: whole.map(|(_, id)| id),
            });
            start += len;
        }
        symbols
    }

    fn join(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Join> {
        let (first, second) = (&symbols[left], &symbols[right]);
        if first.whole.is_some() || second.whole.is_some() {
            return None;
        }
        let len = first.len + second.len;
        let id = *self.ids.get(&text[first.start..first.start + len])?;
        Some(Join {
            // Adding zero makes one of the two zeros.
            score: *self.scores.get(id as usize)? + 0.0,
            left,
            right,
            len,
            id,
        })
    }

    /// Appends the tokens of what was joined to one piece.
    fn emit(&self, piece: &str, seams: &HashMap<u32, usize>, begin: usize, out: &mut Vec<u32>) {
        let mut left = vec![piece];
        while let Some(piece) = left.pop() {
            let id = self.ids.get(piece);
            match id.and_then(|id| seams.get(id)) {
                Some(&seam) => left.extend([&piece[seam..], &piece[..seam]]),
                None => match id {
                    Some(&id) => out.push(id),
                    None => self.emit_bytes(piece, begin, out),
                },
            }
        }
    }

    /// Appends the tokens of the bytes of `letter`, for which there is no piece. A run of letters
    /// that have no tokens for their bytes either is one token.
    fn emit_bytes(&self, letter: &str, begin: usize, out: &mut Vec<u32>) {
        let tokens = letter.bytes().map(|byte| self.bytes[usize::from(byte)]);
        if tokens.clone().all(|token| token.is_some()) {
            out.extend(tokens.flatten());
        } else if out[begin..].last() != Some(&self.unknown) {
            out.push(self.unknown);
        }
    }
}

/// What each token of a tokenizer of kind `llama` stands for.
pub(super) fn token_bytes(description: &GgufTokenizer) -> Vec<Box<[u8]>> {
    let tokens = description.tokens.iter().zip(&description.kinds);
    tokens
        .map(|(text, kind)| match kind {
            TokenKind::Control => Box::default(),
            TokenKind::Unknown => UNKNOWN.as_bytes().into(),
            TokenKind::Byte => parse_byte(text).into_iter().collect(),
            _ => text.replace(SPACE, " ").into_bytes().into(),
        })
        .collect()
}

/// The byte that a byte token, `<0x0A>`, stands for.
pub(super) fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Join {}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Join {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}
