//! A model of random weights of the size that rates are measured at, some 0.3 billion, and random
//! adapters for it.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::io::Write;
use std::path::Path;

use skep_decoder::AdapterTarget;

pub const WIDTH: usize = 1024;
pub const HIDDEN: usize = 2816;
pub const HEADS: usize = 16;
pub const KV_HEADS: usize = 4;
pub const VOCABULARY: usize = 32_000;
/// The rank of adapters.
pub const RANK: usize = 16;

/// What the weights are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Q4_K and Q6_K, as "Q4_K_M" mixes them.
    Mixed,
    /// Q8_0.
    Bytes,
    /// 16-bit floats.
    Halves,
    /// 32-bit floats.
    Floats,
}

/// How many layers there are, and how much they say.
pub struct Shape {
    pub format: Format,
    pub layers: usize,
    /// Layers from here on add little to what the first say, if the weights are [`Format::Mixed`].
    pub loud: usize,
    /// How much, by the scale of their last products, to the nearest power of two.
    pub quiet: i32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            format: Format::Mixed,
            layers: 24,
            loud: usize::MAX,
            quiet: 0,
        }
    }
}

/// Random numbers, the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A random adapter in 16-bit floats, as a PEFT folder.
pub fn write_adapter(folder: &Path, targets: &[AdapterTarget]) {
    let mut random = Random(7);
    let mut tensors = Vec::new();
    for layer in 0..Shape::default().layers {
        for target in targets {
            let keys = WIDTH / HEADS * KV_HEADS;
            let (outputs, inputs) = match target {
                AdapterTarget::Query | AdapterTarget::Output => (WIDTH, WIDTH),
                AdapterTarget::Key | AdapterTarget::Value => (keys, WIDTH),
                AdapterTarget::Gate | AdapterTarget::Up => (HIDDEN, WIDTH),
                AdapterTarget::Down => (WIDTH, HIDDEN),
            };
            for (factor, shape) in [("A", [RANK, inputs]), ("B", [outputs, RANK])] {
                let name = format!(
                    "base_model.model.model.layers.{layer}.{}.lora_{factor}.weight",
                    target.name()
                );
                // 16-bit floats from 2⁻⁷ to 2⁻⁵, of either sign.
                let bytes: Vec<u8> = (0..shape[0] * shape[1])
                    .flat_map(|_| (0x2000 | (random.next() as u16 & 0x87ff)).to_le_bytes())
                    .collect();
                tensors.push((name, shape.to_vec(), bytes));
            }
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let kind = safetensors::Dtype::F16;
        let view = safetensors::tensor::TensorView::new(kind, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), bytes).unwrap();
    let names: Vec<_> = targets.iter().map(|target| target.name()).collect();
    let json = serde_json::json!({
        "peft_type": "LORA", "r": RANK, "lora_alpha": 1, "target_modules": names,
    });
    std::fs::write(folder.join("adapter_config.json"), json.to_string()).unwrap();
}

/// A random model as a GGUF file. Its first layers have the same weights whatever the number of layers is.
pub fn write_model(path: &Path, shape: &Shape) {
    let keys = WIDTH / HEADS * KV_HEADS;
    let (coarse, fine) = match shape.format {
        Format::Mixed => (Q4_K, Q6_K),
        Format::Bytes => (Q8_0, Q8_0),
        Format::Halves => (F16, F16),
        Format::Floats => (F32, F32),
    };
    let mut tensors: Vec<(String, [usize; 2], u32)> = Vec::new();
    tensors.push(("token_embd.weight".to_owned(), [VOCABULARY, WIDTH], fine));
    tensors.push(("output_norm.weight".to_owned(), [1, WIDTH], F32));
    for layer in 0..shape.layers {
        let better = if layer % 2 == 0 { fine } else { coarse };
        for (name, shape, kind) in [
            ("attn_norm", [1, WIDTH], F32),
            ("attn_q", [WIDTH, WIDTH], coarse),
            ("attn_k", [keys, WIDTH], coarse),
            ("attn_v", [keys, WIDTH], better),
            ("attn_output", [WIDTH, WIDTH], coarse),
            ("ffn_norm", [1, WIDTH], F32),
            ("ffn_gate", [HIDDEN, WIDTH], coarse),
            ("ffn_up", [HIDDEN, WIDTH], coarse),
            ("ffn_down", [WIDTH, HIDDEN], better),
        ] {
            tensors.push((format!("blk.{layer}.{name}.weight"), shape, kind));
        }
    }
    let mut head = b"GGUF".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let figures = [
        ("block_count", shape.layers),
        ("context_length", 4096),
        ("embedding_length", WIDTH),
        ("feed_forward_length", HIDDEN),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
    ];
    head.extend(3_u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((figures.len() as u64 + 2).to_le_bytes());
    text(&mut head, "general.architecture");
    head.extend(8_u32.to_le_bytes());
    text(&mut head, "llama");
    text(&mut head, "llama.attention.layer_norm_rms_epsilon");
    head.extend(6_u32.to_le_bytes());
    head.extend(1e-5_f32.to_le_bytes());
    for (key, value) in figures {
        text(&mut head, &format!("llama.{key}"));
        head.extend(4_u32.to_le_bytes());
        head.extend((value as u32).to_le_bytes());
    }
    let mut offset = 0;
    for (name, [rows, columns], kind) in &tensors {
        text(&mut head, name);
        let shape: &[usize] = if *rows == 1 {
            &[*columns]
        } else {
            &[*columns, *rows]
        };
        head.extend((shape.len() as u32).to_le_bytes());
        for side in shape {
            head.extend((*side as u64).to_le_bytes());
        }
        head.extend(kind.to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += bytes_of(rows * columns, *kind).next_multiple_of(32);
    }
    head.resize(head.len().next_multiple_of(32), 0);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    file.write_all(&head).unwrap();
    let mut random = Random(3);
    for (name, [rows, columns], kind) in &tensors {
        let mut bytes = match *rows {
            // Norms.
            1 => 1.0_f32.to_le_bytes().repeat(*columns),
            _ => blocks(&mut random, rows * columns, *kind),
        };
        let layer = name.split('.').nth(1).and_then(|n| n.parse::<usize>().ok());
        let adds = name.contains("attn_output") || name.contains("ffn_down");
        if shape.format == Format::Mixed && adds && layer.is_some_and(|layer| layer >= shape.loud) {
            scale(&mut bytes, *kind, shape.quiet);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        file.write_all(&bytes).unwrap();
    }
    file.flush().unwrap();
}

/// GGUF's numbers of these formats.
const F32: u32 = 0;
const F16: u32 = 1;
const Q8_0: u32 = 8;
const Q4_K: u32 = 12;
const Q6_K: u32 = 14;

fn bytes_of(elements: usize, kind: u32) -> usize {
    match kind {
        F32 => 4 * elements,
        F16 => 2 * elements,
        Q8_0 => elements / 32 * 34,
        Q4_K => elements / 256 * 144,
        _ => elements / 256 * 210,
    }
}

/// Random elements of some hundredths.
fn blocks(random: &mut Random, elements: usize, kind: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..bytes_of(elements, kind).div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    bytes.truncate(bytes_of(elements, kind));
    // 16-bit floats: 1.2e-4, seven and a half times that, 1e-5; 2.4e-4 for bytes.
    match kind {
        // From 2⁻⁷ to 2⁻⁵, of either sign.
        F16 => {
            for value in bytes.chunks_exact_mut(2) {
                value[1] = value[1] & 0x87 | 0x20;
            }
        }
        // From 2⁻⁷ to 2⁻⁵ too, with more digits.
        F32 => {
            for value in bytes.chunks_exact_mut(4) {
                value[3] = value[3] & 0x80 | 0x3c;
            }
        }
        Q8_0 => {
            for block in bytes.chunks_exact_mut(34) {
                block[..2].copy_from_slice(&[0xdd, 0x0b]);
            }
        }
        Q4_K => {
            for block in bytes.chunks_exact_mut(144) {
                block[..4].copy_from_slice(&[0xdd, 0x07, 0x60, 0x13]);
            }
        }
        _ => {
            for block in bytes.chunks_exact_mut(210) {
                block[208..].copy_from_slice(&[0xa8, 0x00]);
            }
        }
    }
    bytes
}

/// Multiplies all elements with a power of two, by the 16-bit scales of their blocks: those of
/// [`blocks`], whose exponents may go down to nothing.
fn scale(bytes: &mut [u8], kind: u32, exponent: i32) {
    let (block, places): (usize, &[usize]) = match kind {
        Q4_K => (144, &[0, 2]),
        _ => (210, &[208]),
    };
    // Blocks have the same few scales, so each is worked out once.
    let mut known: Vec<(u16, u16)> = Vec::new();
    for block in bytes.chunks_exact_mut(block) {
        for place in places {
            let bits = u16::from_le_bytes([block[*place], block[place + 1]]);
            let found = known.iter().find(|(from, _)| *from == bits);
            let scaled = match found {
                Some((_, scaled)) => *scaled,
                None => {
                    let scaled = to_half(half(bits) * f64::from(exponent).exp2());
                    known.push((bits, scaled));
                    scaled
                }
            };
            block[*place..place + 2].copy_from_slice(&scaled.to_le_bytes());
        }
    }
}

/// The value of a 16-bit float that is finite and not negative.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10), f64::from(bits & 0x3ff));
    match exponent {
        0 => fraction * (-24_f64).exp2(),
        _ => (1024.0 + fraction) * f64::from(exponent - 25).exp2(),
    }
}

/// The nearest 16-bit float of a small number that is not negative.
fn to_half(value: f64) -> u16 {
    (0..0x7c00_u16)
        .take_while(|bits| half(*bits) <= value)
        .last()
        .unwrap_or(0)
}
