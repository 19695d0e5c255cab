//! A task: goes on with each line of its input, or answers it where the model can hold a
//! conversation.
//!
//! Its arguments, each of them at most once:
//!
//! - `max-tokens=64`: tokens to write at most to each line;
//! - `temperature=0.8`, `seed=7`: draw tokens instead of taking the likeliest;
//! - `json-schema={…}`: write JSON that this schema admits;
//! - `adapter=name`: write with this adapter; of several, as in `adapter=one,two,`, each line has the
//!   next one, and an empty name is none;
//! - `stream`: write pieces as they come.

use skep_sdk::{
    Chunk, Constraint, Error, LanguageModel, Message, Output, Prompt, Request, Result, input,
    output,
};
use std::io::{BufRead, Write};

/// What the arguments ask for.
struct Options {
    /// A request without its prompt and its adapter.
    request: Request,
    adapters: Vec<Option<String>>,
    stream: bool,
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options {
        request: Request::new("", 64),
        adapters: vec![None],
        stream: false,
    };
    let request = &mut options.request;
    for argument in arguments {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        match name {
            "max-tokens" => request.max_tokens = value.parse().map_err(Error::invalid)?,
            "temperature" => {
                let sampling = request.sampling.get_or_insert_default();
                sampling.temperature = value.parse().map_err(Error::invalid)?;
            }
            "seed" => {
                let sampling = request.sampling.get_or_insert_default();
                sampling.seed = Some(value.parse().map_err(Error::invalid)?);
            }
            "json-schema" => request.constraint = Some(Constraint::JsonSchema(value.to_owned())),
            "adapter" => {
                let names = value.split(',').map(str::to_owned);
                options.adapters = names
                    .map(|name| Some(name).filter(|n| !n.is_empty()))
                    .collect();
            }
            "stream" => options.stream = true,
            _ => {
                return Err(Error::invalid(format!(
                    "{name} is no argument; there are max-tokens, temperature, seed, json-schema, \
                     adapter and stream"
                )));
            }
        }
    }
    // One line to a line, but JSON may have several.
    if options.request.constraint.is_none() {
        options.request.stop.push("\n".to_owned());
    }
    Ok(options)
}

fn generate(arguments: Vec<String>) -> Result<()> {
    let options = options(&arguments)?;
    let model = LanguageModel::open("default")?;
    let converses = model.info().has_chat_template;
    let lines: Vec<String> = input().lines().collect::<std::io::Result<_>>()?;

    // All lines in one call, so that they go through the model together.
    let requests: Vec<Request> = lines
        .into_iter()
        .zip(options.adapters.iter().cycle())
        .map(|(line, adapter)| Request {
            prompt: match converses {
                true => Prompt::Chat(vec![Message::user(line)]),
                false => Prompt::Text(line),
            },
            adapter: adapter.clone(),
            ..options.request.clone()
        })
        .collect();
    let mut output = output();
    if options.stream {
        let mut generation = model.start(&requests)?;
        let mut answers = InOrder::new(requests.len());
        while let Some(chunks) = generation.next()? {
            answers.print(chunks, &mut output)?;
        }
    } else {
        for answer in model.generate(&requests)? {
            for text in answer? {
                writeln!(output, "{}", text.text)?;
            }
        }
    }
    output.finish()
}

/// Answers that are being written at the same time, and printed one after the other.
struct InOrder {
    /// What has come and is not printed, and whether more will come.
    waiting: Vec<(String, bool)>,
    /// Which one is being printed.
    current: usize,
}

impl InOrder {
    fn new(answers: usize) -> Self {
        InOrder {
            waiting: vec![(String::new(), true); answers],
            current: 0,
        }
    }

    fn print(&mut self, chunks: Vec<Chunk>, output: &mut Output) -> Result<()> {
        for chunk in chunks {
            let (text, open) = &mut self.waiting[chunk.request as usize];
            text.push_str(&chunk.text);
            *open = chunk.finish.is_none();
        }
        while let Some((text, open)) = self.waiting.get_mut(self.current) {
            write!(output, "{}", std::mem::take(text))?;
            if *open {
                break;
            }
            writeln!(output)?;
            self.current += 1;
        }
        output.flush()?;
        Ok(())
    }
}

skep_sdk::export_task!(generate);
