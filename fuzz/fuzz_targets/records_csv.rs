//! An input file of any bytes, as comma-separated values.

#![no_main]

mod records;

use libfuzzer_sys::fuzz_target;
use skep_records::Format;

fuzz_target!(|bytes: &[u8]| {
    records::read(bytes, Format::Csv);
});
