//! A task: orders the lines of its input by how near their meaning is to that of its argument.

use skep_sdk::{Encoder, Error, Result, input, output};
use std::io::{BufRead, Write};

fn similar(arguments: Vec<String>) -> Result<()> {
    let [query] = arguments.as_slice() else {
        return Err(Error::invalid(
            "give one argument: the text to compare with",
        ));
    };
    let encoder = Encoder::open("default")?;
    let lines: Vec<String> = input().lines().collect::<std::io::Result<_>>()?;
    let count = u32::try_from(lines.len()).map_err(Error::invalid)?;

    // Rows have length 1, so that a product of matrices is all the cosines at once.
    let query = encoder.embed(&[query])?.transpose(0, 1)?;
    let scores = encoder.embed(&lines)?.matmul(&query)?.reshape(&[count])?;
    let (scores, order) = scores.top_k(count, 0)?;

    let mut output = output();
    for (score, line) in scores.to_vec()?.iter().zip(order.to_vec_i32()?) {
        writeln!(output, "{score:.4}\t{}", lines[line as usize])?;
    }
    output.finish()
}

skep_sdk::export_task!(similar);
