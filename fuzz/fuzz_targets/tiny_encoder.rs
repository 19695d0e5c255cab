//! The files of a sound, tiny encoder.

#![allow(dead_code, reason = "each target uses a part of it")]

use std::path::Path;

const CONFIG: &str = r#"{"model_type": "bert", "vocab_size": 6, "hidden_size": 2,
    "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2,
    "max_position_embeddings": 8, "type_vocab_size": 1}"#;

const MODULES: &str = r#"[
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;

const POOLING: &str = r#"{"word_embedding_dimension": 2, "pooling_mode_mean_tokens": true}"#;

const SENTENCES: &str = r#"{"max_seq_length": 6, "do_lower_case": false}"#;

const TOKENIZER: &str = r###"{"version": "1.0", "added_tokens": [],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "##a": 5}}}"###;

/// The weights of a tiny model: its header lists the tensors, all of whose elements are 0.25.
pub fn weights() -> Vec<u8> {
    let layer = "encoder.layer.0";
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![6, 2]),
        (
            "embeddings.position_embeddings.weight".to_owned(),
            vec![8, 2],
        ),
        (
            "embeddings.token_type_embeddings.weight".to_owned(),
            vec![1, 2],
        ),
        ("embeddings.LayerNorm.weight".to_owned(), vec![2]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![2]),
    ];
    for part in [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ] {
        let shape = if part.ends_with("LayerNorm") {
            vec![2]
        } else {
            vec![2, 2]
        };
        tensors.push((format!("{layer}.{part}.weight"), shape));
        tensors.push((format!("{layer}.{part}.bias"), vec![2]));
    }
    let (mut entries, mut end) = (Vec::new(), 0_usize);
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        entries.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    for _ in 0..end / 4 {
        file.extend(0.25_f32.to_le_bytes());
    }
    file
}

/// All files, with these weights.
pub fn files(weights: &[u8]) -> [(&'static str, &[u8]); 6] {
    [
        ("config.json", CONFIG.as_bytes()),
        ("tokenizer.json", TOKENIZER.as_bytes()),
        ("model.safetensors", weights),
        ("modules.json", MODULES.as_bytes()),
        ("1_Pooling/config.json", POOLING.as_bytes()),
        ("sentence_bert_config.json", SENTENCES.as_bytes()),
    ]
}

pub fn write(folder: &Path, files: &[(&str, &[u8])]) {
    std::fs::create_dir_all(folder.join("1_Pooling")).expect("a folder");
    for (name, content) in files {
        std::fs::write(folder.join(name), content).expect("a file");
    }
}
