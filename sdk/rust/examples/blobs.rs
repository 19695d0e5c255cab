//! Keeps content in the swarm, and gets it back: `store` puts the input into a blob and prints
//! its digest; `load`, with a digest, prints what the blob holds. The node fetches what it lacks
//! from its peers and checks it.

use skep_sdk::{Blob, BlobWriter, Error, Result, input, output};
use std::io::{Write, copy};

fn blobs(arguments: Vec<String>) -> Result<()> {
    let mut output = output();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["store"] => {
            let mut writer = BlobWriter::create()?;
            copy(&mut input(), &mut writer)?;
            writeln!(output, "{}", writer.finish()?)?;
        }
        ["load", digest] => {
            copy(&mut Blob::open(digest)?, &mut output)?;
        }
        _ => {
            return Err(Error::invalid(
                "the arguments are `store`, or `load` and a digest",
            ));
        }
    }
    output.finish()
}

skep_sdk::export_task!(blobs);
