//! GGUF and safetensors files made by hand, sound ones and others.

#![allow(dead_code)] // Each test file uses its own part.

/// A GGUF file in the making. All counts are those of what was added unless set otherwise.
#[derive(Clone, Default)]
pub struct GgufFile {
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub data: Vec<u8>,
    pub version: Option<u32>,
    pub tensor_count: Option<u64>,
    pub entry_count: Option<u64>,
}

pub fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes
}

impl GgufFile {
    /// Adds a metadata entry whose value has the type `kind` and the bytes `value`.
    pub fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        let mut bytes = string(key);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        self.entries.push(bytes);
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, &value.to_le_bytes())
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, &string(value))
    }

    /// Adds an array of elements of type `kind`.
    pub fn array(self, key: &str, kind: u32, elements: &[Vec<u8>]) -> Self {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend((elements.len() as u64).to_le_bytes());
        value.extend(elements.concat());
        self.entry(key, 9, &value)
    }

    pub fn strings(self, key: &str, elements: &[&str]) -> Self {
        let elements: Vec<_> = elements.iter().map(|text| string(text)).collect();
        self.array(key, 8, &elements)
    }

    pub fn floats(self, key: &str, elements: &[f32]) -> Self {
        let elements: Vec<_> = elements.iter().map(|x| x.to_le_bytes().to_vec()).collect();
        self.array(key, 6, &elements)
    }

    /// Adds a tensor to the list; `shape` innermost first, as in the file.
    pub fn tensor(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        let mut bytes = string(name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        for side in shape {
            bytes.extend(side.to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self.tensors.push(bytes);
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.data.extend(data);
        self
    }

    /// The bytes of the file.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.unwrap_or(3).to_le_bytes());
        let tensors = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        let entries = self.entry_count.unwrap_or(self.entries.len() as u64);
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        if !self.data.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            bytes.extend(&self.data);
        }
        bytes
    }
}

/// A sound file with every kind of metadata, a tokenizer and three tensors.
pub fn sound_gguf() -> GgufFile {
    GgufFile::default()
        .text("general.architecture", "llama")
        .u32("general.alignment", 32)
        .entry("a.flag", 7, &[1])
        .entry("a.byte", 0, &[7])
        .entry("a.double", 12, &0.5_f64.to_le_bytes())
        .array("a.flags", 7, &[vec![1], vec![0]])
        .text("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["<unk>", "a", "b"])
        .floats("tokenizer.ggml.scores", &[0.0, -1.0, -2.0])
        .array("tokenizer.ggml.token_type", 5, &token_types(&[2, 1, 1]))
        .u32("tokenizer.ggml.bos_token_id", 1)
        .tensor("a.weight", &[32, 2], 8, 0)
        .tensor("b.weight", &[8], 0, 96)
        .tensor("c.weight", &[4, 2], 1, 128)
        .data(&[0x11; 144])
}

pub fn token_types(types: &[i32]) -> Vec<Vec<u8>> {
    types
        .iter()
        .map(|kind| kind.to_le_bytes().to_vec())
        .collect()
}

/// A safetensors file with `header` and as many bytes of data.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}
