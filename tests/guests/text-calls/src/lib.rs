//! A guest of the world `async-task` that makes the calls of a language model, for their tests. Its
//! argument is what to do with the lines of its input, and it prints JSON:
//!
//! - `judge`: what the model is, the tokens of each line and the lines of these tokens, how likely
//!   each line is after the first, and what the lines are as vectors;
//! - `stream`: what the model writes to each line, taken from a stream as it comes;
//! - `leave`: reads a piece of the stream, and drops it.

use std::io::{BufRead, Write};

use serde_json::{Value, json};
use skep_sdk::{Error, LanguageModel, Request, Result, ScoreRequest, input, output};

/// Tokens that are written to each line.
const TOKENS: u32 = 24;

async fn calls(arguments: Vec<String>) -> Result<()> {
    let model = LanguageModel::open("default")?;
    let lines: Vec<String> = input().lines().collect::<std::io::Result<_>>()?;
    let made = match arguments.first().map(String::as_str) {
        Some("judge") => judge(&model, &lines)?,
        Some("stream") => stream(&model, &lines).await?,
        Some("leave") => {
            let requests: Vec<Request> = lines.iter().map(|line| request(line, 400)).collect();
            let mut stream = model.stream(&requests)?;
            let chunks = stream.next().await?.unwrap_or_default();
            json!({ "pieces": chunks.len() })
        }
        _ => return Err(Error::invalid("cannot do that")),
    };
    let mut output = output();
    output.write_all(made.to_string().as_bytes())?;
    output.finish()
}

skep_sdk::export_async_task!(calls);

fn request(line: &str, tokens: u32) -> Request {
    Request::new(line, tokens)
}

fn judge(model: &LanguageModel, lines: &[String]) -> Result<Value> {
    let info = model.info();
    let tokens = model.tokenize(lines)?;
    let texts = model.detokenize(&tokens)?;
    let (first, others) = lines
        .split_first()
        .ok_or_else(|| Error::invalid("no lines"))?;
    let scores = model.score(&[ScoreRequest::new(first.as_str(), others.iter().cloned())])?;
    let scores: Vec<Value> = scores
        .into_iter()
        .flatten()
        .map(|score| json!({ "logprob": score.logprob, "tokens": score.tokens }))
        .collect();
    let vectors = model.embed(lines)?;
    Ok(json!({
        "name": info.name,
        "digest": info.digest,
        "context": info.context,
        "vocabulary": info.vocabulary,
        "dimensions": info.dimensions,
        "tokens": tokens,
        "texts": texts,
        "scores": scores,
        "vectors": vectors.to_vec()?,
    }))
}

async fn stream(model: &LanguageModel, lines: &[String]) -> Result<Value> {
    let requests: Vec<Request> = lines.iter().map(|line| request(line, TOKENS)).collect();
    let mut texts = vec![String::new(); lines.len()];
    let (mut stream, mut pieces) = (model.stream(&requests)?, 0);
    while let Some(chunks) = stream.next().await? {
        pieces += 1;
        for chunk in chunks {
            texts[chunk.request as usize].push_str(&chunk.text);
        }
    }
    Ok(json!({ "texts": texts, "pieces": pieces }))
}
