//! A GGUF file from a stranger, or two parts of one: reading ends in an error or in a model whose
//! tensors lie inside the file and apart from each other.
//!
//! The first two bytes say where the first part ends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_weights::Gguf;

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, content)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let cut = usize::from(u16::from_le_bytes(cut)).min(content.len());
    let (first, second) = content.split_at(cut);
    let mut parts = vec![first.to_vec()];
    if !second.is_empty() {
        parts.push(second.to_vec());
    }
    let model = match Gguf::from_parts(parts) {
        Ok(model) => model,
        Err(error) => {
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    let metadata = model.metadata();
    for key in metadata.keys() {
        let value = metadata.value(key).expect("each key has a value");
        let _ = value.to_string();
        let _ = metadata.get::<Vec<u64>>(key);
        let _ = metadata.get::<Vec<&str>>(key);
    }
    let mut total = 0;
    for (_, tensor) in model.tensors() {
        total += tensor.bytes().len();
        let mut row = vec![0.0; tensor.columns()];
        tensor
            .dequantize_row(tensor.rows() - 1, &mut row)
            .expect("the last row is there");
        if tensor.check_finite().is_ok() {
            assert!(row.iter().all(|value| value.is_finite()));
        }
    }
    assert!(total <= content.len());
    match model.tokenizer() {
        Ok(Some(tokenizer)) => {
            assert_eq!(tokenizer.kinds.len(), tokenizer.tokens.len());
            assert!(tokenizer.scores.iter().all(|score| score.is_finite()));
            let special = tokenizer.special;
            for id in [special.bos, special.eos, special.eot, special.padding] {
                assert!(id.is_none_or(|id| (id as usize) < tokenizer.tokens.len()));
            }
        }
        Ok(None) => {}
        Err(error) => assert!(error.to_string().len() < 4096),
    }
});
