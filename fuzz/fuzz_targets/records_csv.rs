//! An input file of any bytes: read to its end, line numbers rising, at two sizes of records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_records::{Format, Reader};

fuzz_target!(|bytes: &[u8]| {
    for max in [16, 1 << 20] {
        let mut reader = Reader::new(bytes, Format::Csv)
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
});
