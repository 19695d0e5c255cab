//! The canonical bytes of numbers, texts and lists: whole numbers in LEB128 of the shortest form,
//! texts with their length before them. There is one way to write everything, and reading
//! refuses every other.

/// Why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// They end too early.
    #[error("the bytes end too early")]
    Short,
    /// Something comes after the end.
    #[error("something comes after the end")]
    Long,
    /// A number is too large for what it counts, or not in its shortest form.
    #[error("a number is too large, or not in its shortest form")]
    Number,
    /// A text is too long or not in UTF-8.
    #[error("a text is too long, or not in UTF-8")]
    Text,
    /// There is no such case.
    #[error("an unknown kind of thing")]
    Case,
    /// They do not begin as a log does.
    #[error("the bytes are no log of a village")]
    Magic,
}

/// Writes bytes.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A whole number.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(low(value) | 0x80);
            value >>= 7;
        }
        self.0.push(low(value));
    }

    /// A number from -128 to 127.
    pub fn signed(&mut self, value: i8) {
        self.0.extend(value.to_le_bytes());
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend(text.as_bytes());
    }

    /// How long a list is.
    pub fn length(&mut self, length: usize) {
        self.number(u64::try_from(length).unwrap_or(u64::MAX));
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The lowest seven bits.
fn low(value: u64) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or(0)
}

/// Reads bytes that anybody may have written.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// A whole number of at most `most`.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&mut self, most: u64) -> Result<u64, BytesError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(BytesError::Number);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest && value <= most {
                    Ok(value)
                } else {
                    Err(BytesError::Number)
                };
            }
        }
        Err(BytesError::Number)
    }

    /// A number that fits `u8`.
    ///
    /// # Errors
    /// When there is none.
    pub fn small(&mut self) -> Result<u8, BytesError> {
        let value = self.number(u64::from(u8::MAX))?;
        u8::try_from(value).map_err(|_| BytesError::Number)
    }

    /// A number that fits `u32`.
    ///
    /// # Errors
    /// When there is none.
    pub fn medium(&mut self) -> Result<u32, BytesError> {
        let value = self.number(u64::from(u32::MAX))?;
        u32::try_from(value).map_err(|_| BytesError::Number)
    }

    /// A text of at most so many bytes.
    ///
    /// # Errors
    /// When there is none.
    pub fn text(&mut self, most: usize) -> Result<String, BytesError> {
        let length = self.number(u64::MAX)?;
        let length = usize::try_from(length).map_err(|_| BytesError::Text)?;
        if length > most {
            return Err(BytesError::Text);
        }
        let bytes = self.raw(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| BytesError::Text)?;
        Ok(text.to_owned())
    }

    /// So many bytes as they are.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], BytesError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(BytesError::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(&self) -> Result<(), BytesError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(BytesError::Long)
        }
    }

    fn byte(&mut self) -> Result<u8, BytesError> {
        let (byte, rest) = self.0.split_first().ok_or(BytesError::Short)?;
        self.0 = rest;
        Ok(*byte)
    }
}
