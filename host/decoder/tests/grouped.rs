//! Models with 4-bit groups, as AWQ and GPTQ store them, against the same weights expanded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
#[allow(dead_code)]
mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Tensors, difference, folder, forward, random, write_tensors};
use safetensors::{Dtype, tensor::TensorView};
use skep_decoder::Decoder;
use skep_kernels::kv::{KvFormat, KvPages};

const WIDTH: usize = 64;
const HIDDEN: usize = 96;
const VOCABULARY: usize = 160;
/// Where AWQ puts each of eight outputs in a word.
const AWQ_PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Awq,
    Gptq { act_order: bool },
}

type Raw = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A random layer: its tensors as they are stored, and its elements `[outputs, inputs]`.
fn layer(
    name: &str,
    (outputs, inputs): (usize, usize),
    group: usize,
    method: Method,
    seed: u64,
    raw: &mut Raw,
) -> Vec<f32> {
    let number = |at: usize, salt: u64| random(1, seed * 7919 + salt * 31 + at as u64, 1.0)[0];
    let nibble = |at: usize, salt: u64| ((number(at, salt) + 1.0) * 7.999) as usize;
    let groups = inputs / group;
    // Inputs of a group lie apart where groups are in the order of activations.
    let of_input: Vec<usize> = (0..inputs)
        .map(|input| match method {
            Method::Gptq { act_order: true } => (input * 5 + 3) % inputs / group,
            _ => input / group,
        })
        .collect();
    let quants: Vec<usize> = (0..inputs * outputs).map(|at| nibble(at, 1)).collect();
    let zeros: Vec<usize> = (0..groups * outputs)
        .map(|at| 4 + nibble(at, 2) / 2)
        .collect();
    // Sixteen to 32 thousandths, which 16-bit floats have exactly.
    let steps: Vec<usize> = (0..groups * outputs)
        .map(|at| 64 + 4 * nibble(at, 3))
        .collect();
    let mut values = vec![0.0; outputs * inputs];
    for input in 0..inputs {
        for output in 0..outputs {
            let at = of_input[input] * outputs + output;
            let quant = quants[input * outputs + output] as f32 - zeros[at] as f32;
            values[output * inputs + input] = quant * steps[at] as f32 / 4096.0;
        }
    }
    let by_output = |rows: usize, of: &dyn Fn(usize, usize) -> usize| -> Vec<u32> {
        let mut words = vec![0_u32; rows * outputs / 8];
        for row in 0..rows {
            for output in 0..outputs {
                let place = match method {
                    Method::Awq => AWQ_PLACE[output % 8],
                    Method::Gptq { .. } => output % 8,
                };
                words[row * (outputs / 8) + output / 8] |= (of(row, output) as u32) << (4 * place);
            }
        }
        words
    };
    let mut qzeros = by_output(groups, &|row, output| zeros[row * outputs + output]);
    let (shape, qweight) = match method {
        Method::Awq => (
            vec![inputs, outputs / 8],
            by_output(inputs, &|row, output| quants[row * outputs + output]),
        ),
        Method::Gptq { .. } => {
            // The first version stores one less.
            qzeros.iter_mut().for_each(|word| *word -= 0x1111_1111);
            let mut words = vec![0_u32; inputs / 8 * outputs];
            for input in 0..inputs {
                for output in 0..outputs {
                    words[input / 8 * outputs + output] |=
                        (quants[input * outputs + output] as u32) << (4 * (input % 8));
                }
            }
            (vec![inputs / 8, outputs], words)
        }
    };
    let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let scales = steps
        .iter()
        .flat_map(|step| ((9 << 10 | (step - 64) << 4) as u16).to_le_bytes())
        .collect();
    let mut put = |part: &str, kind, shape, bytes| {
        raw.insert(format!("{name}.{part}"), (kind, shape, bytes));
    };
    put("qweight", Dtype::I32, shape, bytes(&qweight));
    put(
        "qzeros",
        Dtype::I32,
        vec![groups, outputs / 8],
        bytes(&qzeros),
    );
    put("scales", Dtype::F16, vec![groups, outputs], scales);
    if method != Method::Awq {
        let g_idx: Vec<u32> = of_input.iter().map(|group| *group as u32).collect();
        put("g_idx", Dtype::I32, vec![inputs], bytes(&g_idx));
    }
    values
}

/// Writes a model twice: packed, and with all weights expanded.
fn write(packed: &Path, expanded: &Path, group: Option<usize>, method: Method) {
    let mut raw = Raw::new();
    let mut tensors = Tensors::new();
    let mut floats = |name: &str, shape: Vec<usize>, values: Vec<f32>| {
        tensors.insert(name.to_owned(), (shape, values));
    };
    floats(
        "model.embed_tokens.weight",
        vec![VOCABULARY, WIDTH],
        random(VOCABULARY * WIDTH, 1, 1.0),
    );
    floats(
        "lm_head.weight",
        vec![VOCABULARY, WIDTH],
        random(VOCABULARY * WIDTH, 2, 0.2),
    );
    floats("model.norm.weight", vec![WIDTH], vec![1.0; WIDTH]);
    for number in 0..2 {
        let prefix = format!("model.layers.{number}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            floats(
                &format!("{prefix}.{norm}.weight"),
                vec![WIDTH],
                vec![1.0; WIDTH],
            );
        }
        for (n, (name, outputs, inputs)) in [
            ("self_attn.q_proj", WIDTH, WIDTH),
            ("self_attn.k_proj", WIDTH / 2, WIDTH),
            ("self_attn.v_proj", WIDTH / 2, WIDTH),
            ("self_attn.o_proj", WIDTH, WIDTH),
            ("mlp.gate_proj", HIDDEN, WIDTH),
            ("mlp.up_proj", HIDDEN, WIDTH),
            ("mlp.down_proj", WIDTH, HIDDEN),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("{prefix}.{name}");
            let seed = 100 + 10 * number + n as u64;
            let group = group.unwrap_or(inputs);
            let values = layer(&name, (outputs, inputs), group, method, seed, &mut raw);
            floats(&format!("{name}.weight"), vec![outputs, inputs], values);
        }
    }
    let text = std::fs::read(folder("models/llama/config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["hidden_size"] = WIDTH.into();
    json["intermediate_size"] = HIDDEN.into();
    json["head_dim"] = 16.into();
    for at in [packed, expanded] {
        std::fs::create_dir_all(at).unwrap();
    }
    std::fs::write(expanded.join("config.json"), json.to_string()).unwrap();
    write_tensors(&expanded.join("model.safetensors"), &tensors);
    json["quantization_config"] = serde_json::json!({
        "quant_method": if method == Method::Awq { "awq" } else { "gptq" },
        "bits": 4,
        "group_size": group.map_or(-1, |group| group as i64),
        "zero_point": true,
        "desc_act": method == Method::Gptq { act_order: true },
    });
    std::fs::write(packed.join("config.json"), json.to_string()).unwrap();
    for (name, (shape, values)) in tensors {
        if !raw.contains_key(&name.replace(".weight", ".qweight")) {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            raw.insert(name, (Dtype::F32, shape, bytes));
        }
    }
    let views = raw.iter().map(|(name, (kind, shape, bytes))| {
        let view = TensorView::new(*kind, shape.clone(), bytes).unwrap();
        (name, view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(packed.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn packed_groups_are_the_same_model_as_expanded_ones() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, group, method) in [
        ("AWQ by 32", Some(32), Method::Awq),
        ("AWQ as a whole", None, Method::Awq),
        ("GPTQ by 32", Some(32), Method::Gptq { act_order: false }),
        ("GPTQ in order", Some(32), Method::Gptq { act_order: true }),
    ] {
        let (packed, expanded) = (scratch.path().join("a"), scratch.path().join("b"));
        write(&packed, &expanded, group, method);
        let logits = |path: &Path| {
            let decoder = Decoder::load(path).unwrap();
            let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), 4);
            let tokens: Vec<u32> = (0..40).map(|n| 3 + n * 37 % 150).collect();
            let rows = [
                (&tokens[..], 0, &[0_u32, 1, 2][..], None),
                (&tokens[..3], 0, &[3], None),
            ];
            let both = forward(&decoder, 2, &mut pages, &rows);
            // The same bits alone.
            let alone = forward(&decoder, 1, &mut pages, &rows[1..]);
            assert_eq!(both[1], alone[0], "{name}");
            both
        };
        let (got, want) = (logits(&packed), logits(&expanded));
        for (got, want) in got.iter().zip(&want) {
            let spread = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let difference = difference(got, want);
            println!("{name}: within {difference:.3} of {spread:.1}");
            // Activations are rounded to 8 bits, half a hundredth of the largest of 32 each.
            assert!(
                difference < 0.03 * spread,
                "{name}: {difference} of {spread}"
            );
        }
    }
}
