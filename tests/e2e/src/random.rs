//! Language models and adapters of random numbers, written as the files that people bring: GGUF,
//! whole or in parts, Hugging Face folders, PEFT folders. The same seed writes the same bytes.

mod folders;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

pub use folders::{Attention, adapter, add_magnitudes, encoder_adapter, gptq, hugging_face};

/// Elements of a Q8_0 block, and its bytes: a scale and one for each element.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 34;
/// Every tensor of a GGUF file begins at a multiple of this.
const ALIGNMENT: usize = 32;
/// The numbers that GGUF has for types of values and of tensors.
const U16: u32 = 2;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;
const TENSOR_F32: u32 = 0;
const TENSOR_Q8_0: u32 = 8;

/// The sizes of a model of the Llama family.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Elements of a token's row between layers, a multiple of 32.
    pub width: usize,
    /// Elements within a feed-forward layer, a multiple of 32.
    pub hidden: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Tokens. In a GGUF file the first 256 are the bytes, and the last ends a text.
    pub vocabulary: usize,
    /// Tokens of context.
    pub context: usize,
}

impl Shape {
    /// A model of half a megabyte.
    pub const TINY: Self = Self {
        layers: 2,
        width: 64,
        hidden: 128,
        heads: 4,
        kv_heads: 2,
        vocabulary: 288,
        context: 256,
    };

    /// The name, rows and columns of every tensor, as GGUF calls them; a vector has one row.
    fn tensors(&self) -> Vec<(String, usize, usize)> {
        let (width, hidden) = (self.width, self.hidden);
        let keys = width / self.heads * self.kv_heads;
        let mut all = vec![("token_embd".to_owned(), self.vocabulary, width)];
        for layer in 0..self.layers {
            for (name, rows, columns) in [
                ("attn_norm", 1, width),
                ("attn_q", width, width),
                ("attn_k", keys, width),
                ("attn_v", keys, width),
                ("attn_output", width, width),
                ("ffn_norm", 1, width),
                ("ffn_gate", hidden, width),
                ("ffn_up", hidden, width),
                ("ffn_down", width, hidden),
            ] {
                all.push((format!("blk.{layer}.{name}"), rows, columns));
            }
        }
        all.push(("output_norm".to_owned(), 1, width));
        all.push(("output".to_owned(), self.vocabulary, width));
        all
    }

    /// The metadata of a model whose tokens are bytes, as GPT-2 writes them, and such pairs of
    /// tokens as come before.
    fn metadata(&self, pairs: &[Pair]) -> Vec<(String, Value)> {
        let mut tokens: Vec<String> = (0..=255).map(letter).collect();
        tokens.extend(pairs.iter().map(|(a, b)| format!("{a}{b}")));
        let merges = pairs.iter().map(|(a, b)| format!("{a} {b}")).collect();
        let mut kinds = vec![1; tokens.len()];
        for filler in tokens.len()..self.vocabulary {
            tokens.push(format!("<filler {filler}>"));
            // Never used.
            kinds.push(5);
        }
        if let (Some(token), Some(kind)) = (tokens.last_mut(), kinds.last_mut()) {
            *token = "<end>".to_owned();
            // Control.
            *kind = 3;
        }
        let mut metadata = self.network();
        metadata.extend(named([
            ("tokenizer.ggml.model", Value::Text("gpt2".to_owned())),
            ("tokenizer.ggml.pre", Value::Text("default".to_owned())),
            ("tokenizer.ggml.tokens", Value::Texts(tokens)),
            ("tokenizer.ggml.token_type", Value::Numbers(kinds)),
            ("tokenizer.ggml.merges", Value::Texts(merges)),
            (
                "tokenizer.ggml.eos_token_id",
                Value::U32(self.vocabulary as u32 - 1),
            ),
        ]));
        metadata
    }

    /// The metadata of the same model with a tokenizer of SentencePiece: whole words and their
    /// beginnings, letters, and bytes for everything else.
    fn sentencepiece(&self) -> Vec<(String, Value)> {
        // What begins and ends a text is control; bytes are of a kind of their own.
        let mut pieces: Vec<(String, f32, i32)> = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
            .map(|(piece, kind)| (piece.to_owned(), 0.0, kind))
            .to_vec();
        pieces.extend((0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), 0.0, 6)));
        // Each is made of two others.
        let words = [
            "▁a", "▁O", "▁On", "ce", "▁Once", "▁u", "▁up", "on", "▁upon", "▁t", "im", "▁tim",
            "▁time", "▁",
        ];
        let letters = ["O", "n", "c", "e", "u", "p", "o", "a", "t", "i", "m"];
        for (rank, piece) in words.iter().chain(&letters).enumerate() {
            pieces.push(((*piece).to_owned(), -(rank as f32), 1));
        }
        for filler in pieces.len()..self.vocabulary {
            pieces.push((format!("▁filler{filler}"), -1000.0, 1));
        }
        let mut metadata = self.network();
        metadata.extend(named([
            ("tokenizer.ggml.model", Value::Text("llama".to_owned())),
            (
                "tokenizer.ggml.tokens",
                Value::Texts(pieces.iter().map(|(piece, ..)| piece.clone()).collect()),
            ),
            (
                "tokenizer.ggml.scores",
                Value::Floats(pieces.iter().map(|(_, score, _)| *score).collect()),
            ),
            (
                "tokenizer.ggml.token_type",
                Value::Numbers(pieces.iter().map(|(.., kind)| *kind).collect()),
            ),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
            ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ]));
        metadata
    }

    /// What metadata says of the network.
    fn network(&self) -> Vec<(String, Value)> {
        let number = |size: usize| Value::U32(size as u32);
        named([
            ("general.architecture", Value::Text("llama".to_owned())),
            ("llama.block_count", number(self.layers)),
            ("llama.context_length", number(self.context)),
            ("llama.embedding_length", number(self.width)),
            ("llama.feed_forward_length", number(self.hidden)),
            ("llama.attention.head_count", number(self.heads)),
            ("llama.attention.head_count_kv", number(self.kv_heads)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
        ])
    }
}

fn named<const N: usize>(values: [(&str, Value); N]) -> Vec<(String, Value)> {
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A value of a GGUF file's metadata.
enum Value {
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<i32>),
    Floats(Vec<f32>),
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, kind: u32, length: usize| {
            out.extend(ARRAY.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        };
        match self {
            Self::U16(value) => {
                out.extend(U16.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::U32(value) => {
                out.extend(U32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::I32(value) => {
                out.extend(I32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::F32(value) => {
                out.extend(F32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Self::Text(value) => {
                out.extend(TEXT.to_le_bytes());
                text(out, value);
            }
            Self::Texts(values) => {
                array(out, TEXT, values.len());
                values.iter().for_each(|value| text(out, value));
            }
            Self::Numbers(values) => {
                array(out, I32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Floats(values) => {
                array(out, F32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

/// Writes a model as a GGUF file, its matrices as Q8_0.
///
/// # Errors
/// When the file cannot be written.
pub fn gguf(path: &Path, shape: &Shape, seed: u64) -> Result<()> {
    write_gguf(path, &shape.metadata(&[]), &shape.tensors(), seed)
}

/// Two tokens that make another, their bytes written as GPT-2 writes them.
pub type Pair = (String, String);

/// Writes a model of the same numbers that knows these pairs besides the bytes, in this order. There
/// have to be fewer than the shape has room for, which is for an end of the text too.
///
/// # Errors
/// When there are too many, or the file cannot be written.
pub fn gguf_of_pairs(path: &Path, shape: &Shape, seed: u64, pairs: &[Pair]) -> Result<()> {
    let room = shape.vocabulary - 257;
    ensure!(
        pairs.len() <= room,
        "{} pairs, and there is room for {room}",
        pairs.len()
    );
    write_gguf(path, &shape.metadata(pairs), &shape.tensors(), seed)
}

/// Writes a model of the same numbers whose tokenizer is one of SentencePiece.
///
/// # Errors
/// When the file cannot be written.
pub fn sentencepiece_gguf(path: &Path, shape: &Shape, seed: u64) -> Result<()> {
    write_gguf(path, &shape.sentencepiece(), &shape.tensors(), seed)
}

/// Writes the same model as `name-00001-of-0000N.gguf` and so on, and returns the parts.
///
/// # Errors
/// When a file cannot be written.
pub fn split_gguf(
    folder: &Path,
    name: &str,
    parts: usize,
    shape: &Shape,
    seed: u64,
) -> Result<Vec<PathBuf>> {
    let tensors = shape.tensors();
    ensure!(
        (2..=tensors.len()).contains(&parts),
        "{parts} parts are none"
    );
    let mut written = Vec::new();
    for (number, own) in tensors.chunks(tensors.len().div_ceil(parts)).enumerate() {
        let mut metadata = match number {
            0 => shape.metadata(&[]),
            _ => Vec::new(),
        };
        metadata.extend([
            ("split.no".to_owned(), Value::U16(number as u16)),
            ("split.count".to_owned(), Value::U16(parts as u16)),
            (
                "split.tensors.count".to_owned(),
                Value::I32(tensors.len() as i32),
            ),
        ]);
        let path = folder.join(format!("{name}-{:05}-of-{parts:05}.gguf", number + 1));
        write_gguf(&path, &metadata, own, seed)?;
        written.push(path);
    }
    Ok(written)
}

fn write_gguf(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[(String, usize, usize)],
    seed: u64,
) -> Result<()> {
    let mut head = b"GGUF".to_vec();
    head.extend(3_u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        value.write(&mut head);
    }
    let mut offset = 0;
    for (name, rows, columns) in tensors {
        text(&mut head, &format!("{name}.weight"));
        let (kind, bytes) = match rows {
            1 => {
                head.extend(1_u32.to_le_bytes());
                (TENSOR_F32, 4 * columns)
            }
            _ => {
                head.extend(2_u32.to_le_bytes());
                (TENSOR_Q8_0, rows * columns / BLOCK * BLOCK_BYTES)
            }
        };
        head.extend((*columns as u64).to_le_bytes());
        if *rows > 1 {
            head.extend((*rows as u64).to_le_bytes());
        }
        head.extend(kind.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += bytes.next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&head)?;
    for (name, rows, columns) in tensors {
        let mut bytes = Vec::new();
        if *rows == 1 {
            bytes.extend((0..*columns).flat_map(|_| 1.0_f32.to_le_bytes()));
        } else {
            let mut random = Random::new(seed, name);
            // So that a product of a row with unit elements is about as large as they are: bytes
            // are 74 large in the mean square.
            let scale = half(1.0 / (74.0 * (*columns as f32).sqrt()));
            for _ in 0..rows * columns / BLOCK {
                bytes.extend(scale.to_le_bytes());
                bytes.extend((0..BLOCK / 8).flat_map(|_| random.next().to_le_bytes()));
            }
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        file.write_all(&bytes)?;
    }
    Ok(file.flush()?)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The letter that stands for a byte in byte-level vocabularies: bytes that are printed stand for
/// themselves, the others for letters from 256 on.
fn letter(byte: u8) -> String {
    let printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = match printed(byte) {
        true => u32::from(byte),
        false => 256 + (0..byte).filter(|before| !printed(*before)).count() as u32,
    };
    char::from_u32(code).unwrap_or_default().to_string()
}

/// The half-precision number at or below a normal one.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let exponent = (bits >> 23) as u16 - (127 - 15);
    (exponent << 10) | ((bits >> 13) & 0x3ff) as u16
}

/// Numbers by xorshift, one sequence for each seed and name.
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Self {
        let start = name
            .bytes()
            .fold(seed ^ 0xcbf2_9ce4_8422_2325, |state, byte| {
                (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        Self(start.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From -1 to 1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
