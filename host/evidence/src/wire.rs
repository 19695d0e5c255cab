//! The canonical encoding of statements: deterministic CBOR (RFC 8949, section 4.2.1).
//!
//! ```text
//! signed statement = [body: bytes, signature: bytes .size 64]
//! agreed statement = [body: bytes, signature: bytes .size 64, countersignature: bytes .size 64]
//! body             = [format (1), [part…]]     parts in the order of the struct's fields
//! ```
//!
//! A part is an unsigned integer, a byte string, a list, an array of parts, or null for what is
//! left out. Lengths are definite, integers as short as can be. Reading is lenient about the
//! spelling, because the caller writes what was read once more and compares, and strict about
//! everything else.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use skep_registry::Digest;

use crate::account::AccountId;
use crate::statement::StatementError;

pub(crate) type Out = Encoder<Vec<u8>>;
pub(crate) type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// Something that a statement is made of.
pub trait Part: Sized {
    /// Writes it in its one spelling.
    #[doc(hidden)]
    fn write(&self, out: &mut Encoder<Vec<u8>>) -> Written;

    /// Reads it, in any spelling.
    #[doc(hidden)]
    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError>;
}

/// Defines a struct whose encoding is the array of its fields, in their order.
macro_rules! encoded_struct {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::wire::Part for $name {
            fn write(&self, out: &mut $crate::wire::Out) -> $crate::wire::Written {
                out.array(const { [$(stringify!($field)),*].len() as u64 })?;
                $(self.$field.write(out)?;)*
                Ok(())
            }

            fn read(
                input: &mut minicbor::Decoder<'_>,
            ) -> Result<Self, $crate::statement::StatementError> {
                $crate::wire::expect_length(
                    input.array()?,
                    const { [$(stringify!($field)),*].len() as u64 },
                    stringify!($name),
                )?;
                Ok(Self { $($field: $crate::wire::Part::read(input)?,)* })
            }
        }
    };
}
pub(crate) use encoded_struct;

#[expect(
    clippy::expect_used,
    reason = "writing to memory has no error: its type is uninhabited"
)]
pub(crate) fn written(write: impl FnOnce(&mut Out) -> Written) -> Vec<u8> {
    let mut out = Encoder::new(Vec::with_capacity(512));
    write(&mut out).expect("writing to memory does not fail");
    out.into_writer()
}

impl Part for u64 {
    fn write(&self, out: &mut Out) -> Written {
        out.u64(*self)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        Ok(input.u64()?)
    }
}

impl Part for u32 {
    fn write(&self, out: &mut Out) -> Written {
        out.u32(*self)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        Ok(input.u32()?)
    }
}

impl<const N: usize> Part for [u8; N] {
    fn write(&self, out: &mut Out) -> Written {
        out.bytes(self)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        let bytes = input.bytes()?;
        bytes
            .try_into()
            .map_err(|_| malformed(format!("{} bytes, where there have to be {N}", bytes.len())))
    }
}

impl Part for Digest {
    fn write(&self, out: &mut Out) -> Written {
        self.as_bytes().write(out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        Part::read(input).map(Self::from_bytes)
    }
}

impl Part for AccountId {
    fn write(&self, out: &mut Out) -> Written {
        self.as_bytes().write(out)
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        Part::read(input).map(Self::from_bytes)
    }
}

impl<T: Part> Part for Option<T> {
    fn write(&self, out: &mut Out) -> Written {
        match self {
            Some(value) => value.write(out),
            None => out.null()?.ok(),
        }
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        if input.datatype()? == Type::Null {
            input.null()?;
            return Ok(None);
        }
        T::read(input).map(Some)
    }
}

/// Writes a list; the reader has to know its greatest length.
pub(crate) fn write_list<T: Part>(list: &[T], out: &mut Out) -> Written {
    out.array(list.len() as u64)?;
    list.iter().try_for_each(|item| item.write(out))
}

/// A list of at most `max`, whose length is believed only item by item.
pub(crate) fn read_list<T: Part>(
    input: &mut Decoder<'_>,
    max: usize,
) -> Result<Vec<T>, StatementError> {
    let length = input.array()?.ok_or(StatementError::NotCanonical)?;
    if length > max as u64 {
        return Err(malformed(format!(
            "a list of {length}, where at most {max} are allowed"
        )));
    }
    (0..length).map(|_| T::read(input)).collect()
}

/// Bytes of at most `max`.
pub(crate) fn read_bytes(input: &mut Decoder<'_>, max: usize) -> Result<Vec<u8>, StatementError> {
    let bytes = input.bytes()?;
    if bytes.len() > max {
        return Err(malformed(format!(
            "{} bytes, where at most {max} are allowed",
            bytes.len()
        )));
    }
    Ok(bytes.to_vec())
}

pub(crate) fn expect_length(
    found: Option<u64>,
    expected: u64,
    what: &str,
) -> Result<(), StatementError> {
    match found {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(malformed(format!(
            "{what} has {expected} parts, and this has {found}"
        ))),
        None => Err(StatementError::NotCanonical),
    }
}

pub(crate) fn malformed(reason: impl Into<String>) -> StatementError {
    StatementError::Malformed {
        reason: reason.into(),
    }
}

impl From<minicbor::decode::Error> for StatementError {
    fn from(error: minicbor::decode::Error) -> Self {
        malformed(error.to_string())
    }
}
