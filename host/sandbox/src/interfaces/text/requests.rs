//! From requests as guests write them to requests that the engine can be given: every list no
//! longer and every number no odder than makes sense, so that nothing further down has to ask.

use skep_engine::{Chunk, Completion, Constraint, Finish, Request, Sampling, TokenLogprob};

use crate::bindings::task::skep::model::text as contract;
use crate::interfaces::HostError;
use crate::language::{LanguageModelInfo, Message, Prompt};

/// Requests that one call may bring, and texts that they may ask for together.
pub(crate) const REQUESTS: usize = 4096;
/// Bytes of text that one call may bring: prompts, choices, stops and constraints together.
pub(crate) const TEXT: usize = 8 << 20;
/// Stops of a request, and bytes of each.
const STOPS: usize = 64;
const STOP: usize = 1024;
/// Tokens of a request whose logits are changed.
const BIASES: usize = 4096;
/// Rivals of a token that are told.
const RIVALS: u32 = 128;
/// Choices of a request.
pub(crate) const CHOICES: usize = 4096;
/// Turns of a conversation.
const MESSAGES: usize = 4096;

type Checked<T> = Result<T, HostError>;

fn invalid<T>(reason: impl Into<String>) -> Checked<T> {
    Err(HostError::invalid(reason))
}

/// Refuses more of something than one call or request may bring.
pub(crate) fn at_most(what: &str, found: usize, most: usize) -> Checked<()> {
    if found > most {
        return invalid(format!("{found} {what}, and {most} are the most"));
    }
    Ok(())
}

/// Refuses a call with more text than one may bring.
pub(crate) fn check_text(bytes: usize) -> Checked<()> {
    at_most("bytes of text in one call", bytes, TEXT)
}

/// The bytes of text in a prompt.
pub(crate) fn text_in(prompt: &contract::Prompt) -> usize {
    match prompt {
        contract::Prompt::Text(text) => text.len(),
        contract::Prompt::Chat(messages) => messages
            .iter()
            .map(|message| message.role.len() + message.content.len())
            .sum(),
        contract::Prompt::Tokens(_) => 0,
    }
}

/// The bytes of text in a request.
pub(crate) fn text_in_request(request: &contract::Request) -> usize {
    let stops: usize = request.stop.iter().map(String::len).sum();
    let constraint = match &request.constraint {
        Some(contract::Constraint::Choices(texts)) => texts.iter().map(String::len).sum(),
        Some(
            contract::Constraint::Regex(text)
            | contract::Constraint::JsonSchema(text)
            | contract::Constraint::Lark(text),
        ) => text.len(),
        None => 0,
    };
    text_in(&request.prompt) + stops + constraint
}

/// A prompt whose tokens are all in the vocabulary.
pub(crate) fn prompt(prompt: contract::Prompt, model: &LanguageModelInfo) -> Checked<Prompt> {
    Ok(match prompt {
        contract::Prompt::Text(text) => Prompt::Text(text),
        contract::Prompt::Chat(messages) => {
            at_most("turns in a conversation", messages.len(), MESSAGES)?;
            let turn = |message: contract::Message| Message {
                role: message.role,
                content: message.content,
            };
            Prompt::Chat(messages.into_iter().map(turn).collect())
        }
        contract::Prompt::Tokens(tokens) => {
            check_tokens(&tokens, model)?;
            Prompt::Tokens(tokens)
        }
    })
}

/// Refuses tokens that there are not.
pub(crate) fn check_tokens(tokens: &[u32], model: &LanguageModelInfo) -> Checked<()> {
    match tokens.iter().find(|&&token| token >= model.vocabulary) {
        Some(token) => invalid(format!(
            "{token} is no token: the model has those from 0 to {}",
            model.vocabulary.saturating_sub(1)
        )),
        None => Ok(()),
    }
}

/// The request without its prompt and its adapter. Where sampling asks for chance and brings no
/// seed, `seed` gives one.
pub(crate) fn request(
    asked: &mut contract::Request,
    model: &LanguageModelInfo,
    seed: impl FnOnce() -> Checked<u64>,
) -> Checked<Request> {
    if asked.max_tokens == 0 {
        return invalid("max-tokens is 0, and at least 1 has to be written");
    }
    if asked.samples == 0 {
        return invalid("samples is 0, and at least 1 has to be written");
    }
    at_most("samples", asked.samples as usize, REQUESTS)?;
    at_most("stops", asked.stop.len(), STOPS)?;
    for stop in &asked.stop {
        if stop.is_empty() {
            return invalid("a stop is empty, and would end every text at once");
        }
        at_most("bytes in a stop", stop.len(), STOP)?;
    }
    if let Some(rivals) = asked.logprobs {
        at_most("rivals of each token", rivals as usize, RIVALS as usize)?;
    }
    Ok(Request {
        prompt: Vec::new(),
        // More than this never fit.
        max_tokens: asked.max_tokens.min(model.context) as usize,
        sampling: match asked.sampling.take() {
            Some(sampling) => self::sampling(sampling, model, seed)?,
            None => Sampling::GREEDY,
        },
        stop: std::mem::take(&mut asked.stop),
        constraint: asked.constraint.take().map(constraint).transpose()?,
        samples: asked.samples as usize,
        logprobs: asked.logprobs.map(|rivals| rivals as usize),
        adapter: None,
        commit: false,
    })
}

fn sampling(
    asked: contract::Sampling,
    model: &LanguageModelInfo,
    seed: impl FnOnce() -> Checked<u64>,
) -> Checked<Sampling> {
    let within = |name: &str, value: f32, low: f32, high: f32| {
        if (low..=high).contains(&value) {
            Ok(value)
        } else {
            invalid(format!(
                "{name} is {value}, and is between {low} and {high}"
            ))
        }
    };
    let finite = |name: &str, value: f32| within(name, value, -1e6, 1e6);
    at_most("tokens in logit-bias", asked.logit_bias.len(), BIASES)?;
    for (token, bias) in &asked.logit_bias {
        check_tokens(&[*token], model)?;
        finite("a logit's bias", *bias)?;
    }
    Ok(Sampling {
        temperature: within("temperature", asked.temperature, 0.0, 1e6)?,
        top_k: asked.top_k as usize,
        top_p: within("top-p", asked.top_p, 0.0, 1.0)?,
        min_p: within("min-p", asked.min_p, 0.0, 1.0)?,
        repetition_penalty: within("repetition-penalty", asked.repetition_penalty, 1e-6, 1e6)?,
        presence_penalty: finite("presence-penalty", asked.presence_penalty)?,
        frequency_penalty: finite("frequency-penalty", asked.frequency_penalty)?,
        seed: match asked.seed {
            Some(seed) => seed,
            None if asked.temperature > 0.0 => seed()?,
            None => 0,
        },
        shared_noise: false,
        logit_bias: asked.logit_bias,
    })
}

fn constraint(asked: contract::Constraint) -> Checked<Constraint> {
    Ok(match asked {
        contract::Constraint::Choices(texts) => {
            at_most("choices", texts.len(), CHOICES)?;
            if texts.is_empty() {
                return invalid("there are no choices, and one of them has to be written");
            }
            Constraint::Choices(texts)
        }
        contract::Constraint::Regex(text) => Constraint::Regex(text),
        contract::Constraint::JsonSchema(text) => Constraint::JsonSchema(text),
        contract::Constraint::Lark(text) => Constraint::Lark(text),
    })
}

/// What a guest is told of a text that is complete.
pub(crate) fn completion_to_contract(completion: Completion) -> contract::Completion {
    contract::Completion {
        text: completion.text,
        tokens: completion.tokens,
        finish: finish(completion.finish),
        logprobs: completion.logprobs.into_iter().map(logprob).collect(),
        prompt_tokens: number(completion.prompt_tokens),
        cached_tokens: number(completion.cached_tokens),
    }
}

/// What a guest is told of a text that is being written.
pub(crate) fn chunk_to_contract(chunk: Chunk) -> contract::Chunk {
    contract::Chunk {
        request: number(chunk.request),
        sample: number(chunk.sample),
        text: chunk.text,
        tokens: chunk.tokens,
        logprobs: chunk.logprobs.into_iter().map(logprob).collect(),
        finish: chunk.finish.map(finish),
    }
}

fn logprob(logprob: TokenLogprob) -> contract::TokenLogprob {
    contract::TokenLogprob {
        token: logprob.token,
        logprob: logprob.logprob,
        likeliest: logprob.likeliest,
    }
}

fn finish(finish: Finish) -> contract::Finish {
    match finish {
        Finish::End => contract::Finish::End,
        Finish::Stop => contract::Finish::Stop,
        Finish::Length => contract::Finish::Length,
    }
}

/// A count that cannot pass what a context holds.
pub(crate) fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> LanguageModelInfo {
        LanguageModelInfo {
            name: "m".to_owned(),
            digest: String::new(),
            architecture: "llama".to_owned(),
            context: 100,
            vocabulary: 10,
            dimensions: 4,
            has_chat_template: false,
            weights_bytes: 0,
            device: "processor".to_owned(),
            device_bytes: 0,
        }
    }

    fn asked() -> contract::Request {
        contract::Request {
            prompt: contract::Prompt::Text("a".to_owned()),
            max_tokens: 5,
            sampling: Some(plain()),
            stop: vec!["\n".to_owned()],
            constraint: None,
            samples: 2,
            logprobs: Some(3),
            adapter: None,
        }
    }

    fn plain() -> contract::Sampling {
        contract::Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: vec![(9, -1.0)],
            seed: None,
        }
    }

    fn checked(mut asked: contract::Request) -> Result<Request, String> {
        request(&mut asked, &model(), || Ok(77)).map_err(|error| match error.plain() {
            crate::bindings::task::skep::types::types::Error::Invalid(reason) => reason,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_plain_request_goes_through_with_a_seed_where_chance_plays() {
        let request = checked(asked()).unwrap();
        assert_eq!((request.max_tokens, request.samples), (5, 2));
        assert_eq!(request.sampling.seed, 77);
        assert_eq!(request.logprobs, Some(3));
        let mut certain = asked();
        certain.sampling.as_mut().unwrap().temperature = 0.0;
        assert_eq!(checked(certain).unwrap().sampling.seed, 0);
        let mut seeded = asked();
        seeded.sampling.as_mut().unwrap().seed = Some(5);
        assert_eq!(checked(seeded).unwrap().sampling.seed, 5);
    }

    #[test]
    fn more_tokens_than_fit_are_as_many_as_fit() {
        let request = contract::Request {
            max_tokens: u32::MAX,
            ..asked()
        };
        assert_eq!(checked(request).unwrap().max_tokens, 100);
    }

    #[test]
    fn every_odd_number_is_refused_by_name() {
        type Change = fn(&mut contract::Request);
        let cases: [(&str, Change); 15] = [
            ("max-tokens", |r| r.max_tokens = 0),
            ("samples is 0", |r| r.samples = 0),
            ("samples", |r| r.samples = u32::MAX),
            ("a stop is empty", |r| r.stop.push(String::new())),
            ("bytes in a stop", |r| r.stop.push("x".repeat(STOP + 1))),
            ("stops", |r| r.stop = vec!["x".to_owned(); STOPS + 1]),
            ("rivals", |r| r.logprobs = Some(u32::MAX)),
            ("no choices", |r| {
                r.constraint = Some(contract::Constraint::Choices(Vec::new()));
            }),
            ("temperature", |r| {
                r.sampling.as_mut().unwrap().temperature = f32::NAN;
            }),
            ("temperature", |r| {
                r.sampling.as_mut().unwrap().temperature = -0.5;
            }),
            ("top-p", |r| r.sampling.as_mut().unwrap().top_p = 1.5),
            ("min-p", |r| r.sampling.as_mut().unwrap().min_p = f32::NAN),
            ("repetition-penalty", |r| {
                r.sampling.as_mut().unwrap().repetition_penalty = 0.0;
            }),
            ("bias", |r| {
                r.sampling.as_mut().unwrap().logit_bias = vec![(1, f32::INFINITY)];
            }),
            ("10 is no token", |r| {
                r.sampling.as_mut().unwrap().logit_bias = vec![(10, 1.0)];
            }),
        ];
        for (word, change) in cases {
            let mut request = asked();
            change(&mut request);
            let reason = checked(request).unwrap_err();
            assert!(reason.contains(word), "{reason} does not name {word}");
        }
    }

    #[test]
    fn tokens_that_there_are_not_are_refused() {
        let error = prompt(contract::Prompt::Tokens(vec![0, 9, 10]), &model());
        assert!(error.is_err());
        let tokens = prompt(contract::Prompt::Tokens(vec![0, 9]), &model());
        assert!(matches!(tokens, Ok(Prompt::Tokens(t)) if t == [0, 9]));
    }

    #[test]
    fn all_text_of_a_request_is_counted() {
        let mut request = asked();
        request.constraint = Some(contract::Constraint::Regex("abc".to_owned()));
        assert_eq!(text_in_request(&request), 1 + 1 + 3);
        assert!(check_text(TEXT).is_ok() && check_text(TEXT + 1).is_err());
    }
}
