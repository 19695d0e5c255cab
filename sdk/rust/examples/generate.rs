//! A task: goes on with each line of its input, or answers it where the model can hold a
//! conversation. Its argument, if there is one, is the number of tokens to write at most.

use skep_sdk::{Error, LanguageModel, Message, Prompt, Request, Result, input, output};
use std::io::{BufRead, Write};

fn generate(arguments: Vec<String>) -> Result<()> {
    let most: u32 = match arguments.as_slice() {
        [] => 64,
        [most] => most.parse().map_err(Error::invalid)?,
        _ => return Err(Error::invalid("give one argument at most")),
    };
    let model = LanguageModel::open("default")?;
    let converses = model.info().has_chat_template;
    let lines: Vec<String> = input().lines().collect::<std::io::Result<_>>()?;

    // All lines in one call, so that they go through the model together.
    let requests: Vec<Request> = lines
        .into_iter()
        .map(|line| {
            let prompt = match converses {
                true => Prompt::Chat(vec![Message::user(line)]),
                false => Prompt::Text(line),
            };
            Request::new(prompt, most).stop("\n")
        })
        .collect();
    let mut output = output();
    for answer in model.generate(&requests)? {
        for text in answer? {
            writeln!(output, "{}", text.text.trim())?;
        }
    }
    output.finish()
}

skep_sdk::export_task!(generate);
