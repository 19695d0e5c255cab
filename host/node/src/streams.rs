//! What is told on the standard streams, line by line.
//!
//! It must never end a command because whoever read it has gone: `head` takes what it wants and leaves, and the
//! command may be in the middle of a job. That nothing more can be written for any other reason is told at the end.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

/// Why standard output could not be written, if it could not.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Tells a line on standard output.
macro_rules! tell {
    ($($argument:tt)*) => {
        $crate::streams::tell(format_args!($($argument)*))
    };
}

/// Tells a line on standard error.
macro_rules! tell_error {
    ($($argument:tt)*) => {
        $crate::streams::tell_error(format_args!($($argument)*))
    };
}

/// Tells a line on standard output.
pub fn tell(line: fmt::Arguments<'_>) {
    if let Err(error) = write(&mut io::stdout().lock(), line) {
        let _ = UNWRITTEN.set(error.to_string());
    }
}

/// Tells a line on standard error. If nobody can be told there, nobody can be told that either.
pub fn tell_error(line: fmt::Arguments<'_>) {
    let _ = write(&mut io::stderr().lock(), line);
}

/// Why something that was told on standard output is not there, if whoever reads has not just had enough.
pub fn unwritten() -> Option<&'static str> {
    UNWRITTEN.get().map(String::as_str)
}

fn write(stream: &mut impl Write, line: fmt::Arguments<'_>) -> io::Result<()> {
    let written = stream
        .write_fmt(line)
        .and_then(|()| stream.write_all(b"\n"));
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that fails.
    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
        let mut told = Vec::new();
        assert!(write(&mut told, format_args!("{} of {}", 1, 2)).is_ok());
        assert_eq!(told, b"1 of 2\n");
        let mut gone = Failing(io::ErrorKind::BrokenPipe);
        assert!(write(&mut gone, format_args!("a line")).is_ok());
        let mut full = Failing(io::ErrorKind::StorageFull);
        let error = write(&mut full, format_args!("a line")).err();
        let kind = error.map(|error| error.kind());
        assert_eq!(kind, Some(io::ErrorKind::StorageFull));
    }
}
