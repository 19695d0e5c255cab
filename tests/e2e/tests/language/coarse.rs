//! A model made coarser behind its owner's back: the same file, with three of eight bits left of most
//! weights.

/// A block has a scale of two bytes and 32 weights of one.
const BLOCK: usize = 34;
/// Names of tensors are no further from the beginning.
const HEADER: usize = 1 << 20;
/// What weights are rounded to multiples of.
const STEP: i16 = 32;

/// The file of a model in Q8_0, whose layers' matrices are coarser than that.
pub fn weights(file: &[u8]) -> Vec<u8> {
    let mut coarse = file.to_vec();
    let mut tensors = Vec::new();
    for layer in 0.. {
        let before = tensors.len();
        for part in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ] {
            tensors.extend(find(file, &format!("blk.{layer}.{part}.weight")));
        }
        if tensors.len() == before {
            break;
        }
    }
    assert!(!tensors.is_empty(), "there are no layers");
    // What lies last ends the file.
    let last = tensors.iter().map(|(offset, bytes)| offset + bytes).max();
    let data = file.len() - last.unwrap();
    for (offset, bytes) in tensors {
        for block in coarse[data + offset..][..bytes].chunks_exact_mut(BLOCK) {
            for weight in &mut block[2..] {
                let value = i16::from(*weight as i8);
                let rounded = (value + value.signum() * STEP / 2) / STEP * STEP;
                *weight = rounded.clamp(-127, 127) as i8 as u8;
            }
        }
    }
    coarse
}

/// Where a tensor's data lie behind the header, and how many bytes they have.
fn find(file: &[u8], name: &str) -> Option<(usize, usize)> {
    let header = &file[..file.len().min(HEADER)];
    let at = header
        .windows(name.len())
        .position(|bytes| bytes == name.as_bytes())?;
    let number = |from: usize, bytes: usize| {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&file[from..from + bytes]);
        usize::try_from(u64::from_le_bytes(number)).unwrap()
    };
    let mut at = at + name.len();
    let dimensions = number(at, 4);
    at += 4;
    let elements: usize = (0..dimensions).map(|n| number(at + 8 * n, 8)).product();
    at += 8 * dimensions;
    assert_eq!(number(at, 4), 8, "{name} is not in Q8_0");
    Some((number(at + 4, 8), elements / 32 * BLOCK))
}
