//! How transcripts, scripts and observations are written, in one way each, and read.
//!
//! It must never read more than a run may show, nor allocate by what a stranger's bytes say of their
//! length.

use minicbor::Decoder;
use skep_registry::Digest;

use super::{
    FORMAT, MAX_CHUNKS, MAX_TOKENS, Observation, SHORTFALL, Script, SeenAnswer, SeenText,
    Shortfall, TOKEN, Transcript, WrittenAnswer, WrittenText, chunks,
};
use crate::activations::{BYTES, Commitment, Peaks};
use crate::statement::StatementError;
use crate::wire::{
    Out, Part, Written, expect_length, malformed, read_bytes, read_list, write_list, written,
};

macro_rules! shown {
    ($($type:ident: $what:literal),*) => {$(
        impl $type {
            /// Its one encoding.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                written(|out| {
                    out.array(2)?.u64(FORMAT)?;
                    self.write(out)
                })
            }

            /// The digest of its encoding, which is its name.
            #[must_use]
            pub fn digest(&self) -> Digest {
                Digest::of(&self.encode())
            }

            /// Reads one.
            ///
            /// # Errors
            ///
            /// When the bytes are none, or more is shown than any run may.
            pub fn decode(encoding: &[u8]) -> Result<Self, StatementError> {
                if encoding.len() > Self::MAX_BYTES {
                    return Err(StatementError::TooLarge {
                        what: $what,
                        size: encoding.len(),
                        limit: Self::MAX_BYTES,
                    });
                }
                let mut input = Decoder::new(encoding);
                expect_length(input.array()?, 2, $what)?;
                let format = input.u64()?;
                if format != FORMAT {
                    return Err(StatementError::UnknownFormat {
                        what: $what,
                        found: format,
                    });
                }
                let read = Self::read(&mut input)?;
                if read.chunks() > MAX_CHUNKS {
                    return Err(malformed(format!(
                        "a run shows at most {MAX_CHUNKS} chunks of texts, and this {} shows {}",
                        $what,
                        read.chunks()
                    )));
                }
                match read.encode() == encoding {
                    true => Ok(read),
                    false => Err(StatementError::NotCanonical),
                }
            }
        }
    )*};
}
shown!(Transcript: "transcript", Script: "script", Observation: "observation");

/// The tokens of one text.
struct Tokens(Vec<u32>);

impl Part for Tokens {
    fn write(&self, out: &mut Out) -> Written {
        write_tokens(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_tokens(input).map(Self)
    }
}

fn write_tokens(tokens: &[u32], out: &mut Out) -> Written {
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.to_be_bytes())
        .collect();
    out.bytes(&bytes)?.ok()
}

fn read_tokens(input: &mut Decoder<'_>) -> Result<Vec<u32>, StatementError> {
    let bytes = read_bytes(input, TOKEN * MAX_TOKENS)?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(TOKEN) {
        return Err(malformed("a text has at least one token, of 4 bytes each"));
    }
    let tokens = bytes.chunks_exact(TOKEN);
    Ok(tokens
        .map(|token| u32::from_be_bytes([token[0], token[1], token[2], token[3]]))
        .collect())
}

impl Part for WrittenText {
    fn write(&self, out: &mut Out) -> Written {
        out.array(2)?;
        write_tokens(&self.tokens, out)?;
        let commitments = self.commitments.iter();
        let bytes: Vec<u8> = commitments.flat_map(Commitment::encode).collect();
        out.bytes(&bytes)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 2, "a written text")?;
        let tokens = read_tokens(input)?;
        let chunks = chunks(tokens.len());
        let bytes = read_bytes(input, chunks * BYTES)?;
        if bytes.len() != chunks * BYTES {
            return Err(malformed(
                "a text has one commitment for each of its chunks",
            ));
        }
        let commitments = bytes.chunks_exact(BYTES).map(Commitment::decode);
        let commitments = commitments.collect::<Result<_, _>>();
        Ok(Self {
            tokens,
            commitments: commitments.map_err(|error| malformed(error.to_string()))?,
        })
    }
}

impl Part for WrittenAnswer {
    fn write(&self, out: &mut Out) -> Written {
        out.array(2)?;
        self.request.write(out)?;
        write_list(&self.texts, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 2, "an answer")?;
        Ok(Self {
            request: Part::read(input)?,
            texts: read_list(input, MAX_CHUNKS)?,
        })
    }
}

impl Part for Transcript {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, MAX_CHUNKS).map(Self)
    }
}

/// The tokens of one request's texts.
struct Lines(Vec<Tokens>);

impl Part for Lines {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, MAX_CHUNKS).map(Self)
    }
}

impl Part for Script {
    fn write(&self, out: &mut Out) -> Written {
        out.array(self.0.len() as u64)?;
        self.0.iter().try_for_each(|texts| {
            out.array(texts.len() as u64)?;
            texts
                .iter()
                .try_for_each(|tokens| write_tokens(tokens, out))
        })
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        let all: Vec<Lines> = read_list(input, MAX_CHUNKS)?;
        let texts = |lines: Lines| lines.0.into_iter().map(|tokens| tokens.0).collect();
        Ok(Self(all.into_iter().map(texts).collect()))
    }
}

impl Part for Peaks {
    fn write(&self, out: &mut Out) -> Written {
        out.bytes(&self.encode())?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        let bytes = read_bytes(input, Self::MAX_BYTES)?;
        Self::decode(&bytes).map_err(|error| malformed(error.to_string()))
    }
}

impl Part for SeenText {
    fn write(&self, out: &mut Out) -> Written {
        out.array(2)?;
        write_list(&self.peaks, out)?;
        let shortfalls = self.shortfalls.iter();
        let bytes: Vec<u8> = shortfalls
            .flat_map(|short| {
                let gap = short.gap.to_bits().to_be_bytes();
                short.place.to_be_bytes().into_iter().chain(gap)
            })
            .collect();
        out.bytes(&bytes)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 2, "a seen text")?;
        let peaks: Vec<Peaks> = read_list(input, MAX_CHUNKS)?;
        if peaks.is_empty() {
            return Err(malformed("a text has at least the peaks of its prompt"));
        }
        let bytes = read_bytes(input, SHORTFALL * MAX_TOKENS)?;
        if !bytes.len().is_multiple_of(SHORTFALL) {
            return Err(malformed("a shortfall has 8 bytes"));
        }
        let shortfalls = bytes.chunks_exact(SHORTFALL).map(|bytes| {
            let number = |from: usize| {
                u32::from_be_bytes([
                    bytes[from],
                    bytes[from + 1],
                    bytes[from + 2],
                    bytes[from + 3],
                ])
            };
            Shortfall {
                place: number(0),
                gap: f32::from_bits(number(4)),
            }
        });
        let shortfalls: Vec<Shortfall> = shortfalls.collect();
        // Not so of what is no number.
        let is_sound = |short: &Shortfall| short.gap >= 0.0 && !short.gap.is_sign_negative();
        if !shortfalls.is_sorted_by(|a, b| a.place < b.place) || !shortfalls.iter().all(is_sound) {
            return Err(malformed(
                "shortfalls are from 0 on, in the order of their tokens",
            ));
        }
        Ok(Self { peaks, shortfalls })
    }
}

impl Part for SeenAnswer {
    fn write(&self, out: &mut Out) -> Written {
        out.array(3)?;
        self.request.write(out)?;
        self.fits.write(out)?;
        write_list(&self.texts, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        expect_length(input.array()?, 3, "a seen answer")?;
        Ok(Self {
            request: Part::read(input)?,
            fits: Part::read(input)?,
            texts: read_list(input, MAX_CHUNKS)?,
        })
    }
}

impl Part for Observation {
    fn write(&self, out: &mut Out) -> Written {
        write_list(&self.0, out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_list(input, MAX_CHUNKS).map(Self)
    }
}
