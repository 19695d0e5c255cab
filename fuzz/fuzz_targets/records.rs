//! An input file of any bytes: read to its end, line numbers rising, at two sizes of records.

use skep_records::{Format, Reader};

/// Reads the bytes as a file of this form.
pub fn read(bytes: &[u8], format: Format) {
    for max in [16, 1 << 20] {
        let mut reader = Reader::new(bytes, format)
            .max_record_bytes(max)
            .with_labels();
        let mut last = 0;
        let mut fatal = false;
        for line in reader.by_ref() {
            assert!(!fatal && line.number > last);
            last = line.number;
            fatal = line.result.is_err_and(|error| {
                let _ = error.to_string();
                error.is_fatal()
            });
        }
        assert!(fatal || reader.position() == bytes.len() as u64);
    }
}
