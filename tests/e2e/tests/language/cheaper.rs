//! A model made cheaper behind its owner's back: its file with a layer left out, or with its weights in four bits.

/// The kinds of tensors in question, by the numbers that GGUF has for them.
const Q4_0: u32 = 2;
const Q8_0: u32 = 8;
/// Weights of a block, and the bytes of one in either kind: a scale of two, and one or half a byte for each weight.
const BLOCK: usize = 32;
const Q4_0_BYTES: usize = 18;
const Q8_0_BYTES: usize = 34;
/// Every tensor begins at a multiple of this.
const ALIGNMENT: usize = 32;
/// Types of values in the metadata.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The file of a model without its last layer.
pub fn one_layer_fewer(file: &[u8]) -> Vec<u8> {
    let mut model = Model::read(file);
    let count = model
        .metadata
        .iter_mut()
        .find(|(key, _)| key.ends_with(".block_count"));
    // The number is what an entry ends with.
    let entry = &mut count.unwrap().1;
    let place = entry.len() - 4;
    let layers = u32::from_le_bytes(entry[place..].try_into().unwrap());
    entry[place..].copy_from_slice(&(layers - 1).to_le_bytes());
    let last = format!("blk.{}.", layers - 1);
    let before = model.tensors.len();
    model
        .tensors
        .retain(|tensor| !tensor.name.starts_with(&last));
    assert!(model.tensors.len() < before, "there is no {last}");
    model.write()
}

/// The file of a model in Q8_0 with all its matrices in Q4_0.
pub fn in_four_bits(file: &[u8]) -> Vec<u8> {
    let mut model = Model::read(file);
    let mut changed = 0;
    for tensor in &mut model.tensors {
        if tensor.kind == Q8_0 {
            let blocks = tensor.data.chunks_exact(Q8_0_BYTES);
            tensor.data = blocks.flat_map(four_bits).collect();
            tensor.kind = Q4_0;
            changed += 1;
        }
    }
    assert!(changed > 0, "there is nothing in Q8_0");
    model.write()
}

/// A block of Q8_0 as one of Q4_0: the weight that is largest without its sign is the lowest of 16 steps.
fn four_bits(block: &[u8]) -> [u8; Q4_0_BYTES] {
    let scale = from_half(u16::from_le_bytes([block[0], block[1]]));
    let weights = block[2..].iter();
    let weights: Vec<f32> = weights
        .map(|weight| f32::from(*weight as i8) * scale)
        .collect();
    let largest = weights
        .iter()
        .fold(0.0, |most: f32, weight| match weight.abs() > most.abs() {
            true => *weight,
            false => most,
        });
    let step = largest / -8.0;
    let four = |weight: f32| match step == 0.0 {
        true => 8,
        false => (weight / step + 8.5).clamp(0.0, 15.0) as u8,
    };
    let mut coarse = [0; Q4_0_BYTES];
    coarse[..2].copy_from_slice(&to_half(step).to_le_bytes());
    let (low, high) = weights.split_at(BLOCK / 2);
    for (byte, (low, high)) in coarse[2..].iter_mut().zip(low.iter().zip(high)) {
        *byte = four(*low) | four(*high) << 4;
    }
    coarse
}

/// The number that 16 bits stand for.
fn from_half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    match exponent {
        0 => sign * mantissa * 2.0_f32.powi(-24),
        _ => sign * (1.0 + mantissa / 1024.0) * 2.0_f32.powi(exponent - 15),
    }
}

/// The nearest number of 16 bits; one too small for them is 0.
fn to_half(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16 & 0x8000) as u16;
    let bits = (value.abs().to_bits() + 0x1000) >> 13;
    let least = 113 << 10;
    match bits.checked_sub(least) {
        None => sign,
        Some(above) => sign | (above + (1 << 10)) as u16,
    }
}

/// A tensor as it lies in a file.
struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    kind: u32,
    data: Vec<u8>,
}

/// What a file holds.
struct Model {
    /// Each entry by its key, as it is in the file.
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<Tensor>,
}

impl Model {
    fn read(file: &[u8]) -> Self {
        let mut reader = Reader { file, at: 0 };
        assert_eq!(reader.take(4), b"GGUF");
        assert_eq!(reader.number(), 3);
        let (tensors, entries) = (reader.length(), reader.length());
        let entry = |reader: &mut Reader<'_>| {
            let begin = reader.at;
            let key = reader.text();
            let kind = reader.number();
            reader.skip(kind);
            (key, file[begin..reader.at].to_vec())
        };
        let metadata = (0..entries).map(|_| entry(&mut reader)).collect();
        let named = |reader: &mut Reader<'_>| {
            let name = reader.text();
            let dimensions = (0..reader.number()).map(|_| reader.length() as u64);
            let dimensions: Vec<u64> = dimensions.collect();
            (name, dimensions, reader.number(), reader.length())
        };
        let named: Vec<_> = (0..tensors).map(|_| named(&mut reader)).collect();
        let data = &file[reader.at.next_multiple_of(ALIGNMENT)..];
        let tensors = named.into_iter().map(|(name, dimensions, kind, offset)| {
            let weights: u64 = dimensions.iter().product();
            let weights = usize::try_from(weights).unwrap();
            let bytes = match kind {
                0 => 4 * weights,
                Q8_0 => weights / BLOCK * Q8_0_BYTES,
                kind => panic!("{name} is of the kind {kind}"),
            };
            Tensor {
                data: data[offset..][..bytes].to_vec(),
                name,
                dimensions,
                kind,
            }
        });
        Self {
            metadata,
            tensors: tensors.collect(),
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        file.extend(self.metadata.iter().flat_map(|(_, entry)| entry));
        let mut data = Vec::new();
        for tensor in &self.tensors {
            file.extend((tensor.name.len() as u64).to_le_bytes());
            file.extend(tensor.name.as_bytes());
            file.extend((tensor.dimensions.len() as u32).to_le_bytes());
            let dimensions = tensor.dimensions.iter();
            file.extend(dimensions.flat_map(|size| size.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(data);
        file
    }
}

/// A file that is read from its beginning on.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let taken = &self.file[self.at..][..bytes];
        self.at += bytes;
        taken
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn length(&mut self) -> usize {
        let length = u64::from_le_bytes(self.take(8).try_into().unwrap());
        usize::try_from(length).unwrap()
    }

    fn text(&mut self) -> String {
        let length = self.length();
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    /// Passes over a value of this type.
    fn skip(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            10..=12 => self.at += 8,
            TEXT => {
                let length = self.length();
                self.at += length;
            }
            ARRAY => {
                let kind = self.number();
                for _ in 0..self.length() {
                    self.skip(kind);
                }
            }
            kind => panic!("there is no type {kind}"),
        }
    }
}
