//! Language models of the node.

use crate::bindings::imports::skep::model::text as wit;
use crate::{Result, Tensor};

pub use wit::{ChoiceScore, Chunk, Completion, Finish, TokenLogprob};

/// A language model: it reads a text and writes what comes next.
///
/// The node holds the weights and serves all runs with them at once. Give as many requests in one
/// call as there are: they go through the model together, and what one is answered does not depend
/// on the others.
pub struct LanguageModel(wit::LanguageModel);

/// What a [`LanguageModel`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name under which the node knows it.
    pub name: String,
    /// The digest of the model's manifest: 64 lower-case hexadecimal digits.
    pub digest: String,
    /// The architecture, such as `llama`.
    pub architecture: String,
    /// Tokens that a prompt and what is written to it may have together.
    pub context: u32,
    /// Tokens that there are.
    pub vocabulary: u32,
    /// The number of elements of an embedding.
    pub dimensions: u32,
    /// Whether it comes with a template for conversations.
    pub has_chat_template: bool,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, or another that the model's template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What the assistant is to keep to.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the assistant said before.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    fn new(role: &str, content: impl Into<String>) -> Self {
        Message {
            role: role.to_owned(),
            content: content.into(),
        }
    }
}

/// What a model sees before it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text, to be gone on with. Marks such as `<|im_start|>` are letters like any others.
    Text(String),
    /// A conversation, to be answered by the assistant.
    Chat(Vec<Message>),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Prompt::Text(text)
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Prompt::Chat(messages)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Prompt::Tokens(tokens)
    }
}

/// How the next token is chosen. The default draws by the model's own probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token always; 1 draws by the model's own probabilities.
    pub temperature: f32,
    /// Keeps so many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest likeliest tokens whose probabilities come to this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Makes tokens of the prompt and of what was written less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token that was written.
    pub presence_penalty: f32,
    /// Taken from a token's logit for each time that it was written.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text; without one the node takes a random one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// What may be written: only texts that the constraint admits as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// One of these texts.
    Choices(Vec<String>),
    /// What a regular expression matches from beginning to end.
    Regex(String),
    /// JSON that a JSON schema admits.
    JsonSchema(String),
    /// What a context-free grammar admits, in llguidance's dialect of Lark.
    Lark(String),
}

/// One prompt, and what to write to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the model sees.
    pub prompt: Prompt,
    /// Tokens to write at most, for each sample.
    pub max_tokens: u32,
    /// How tokens are chosen; none takes the likeliest token always.
    pub sampling: Option<Sampling>,
    /// Texts at which writing ends; they are not part of the result.
    pub stop: Vec<String>,
    /// What may be written.
    pub constraint: Option<Constraint>,
    /// How many texts to write. They share the prompt's work.
    pub samples: u32,
    /// With each token its log-probability, and those of so many of the likeliest in its place.
    pub logprobs: Option<u32>,
    /// The adapter to write with, by name or by digest.
    pub adapter: Option<String>,
}

impl Request {
    /// One text of the likeliest tokens, and nothing else asked for.
    pub fn new(prompt: impl Into<Prompt>, max_tokens: u32) -> Self {
        Request {
            prompt: prompt.into(),
            max_tokens,
            sampling: None,
            stop: Vec::new(),
            constraint: None,
            samples: 1,
            logprobs: None,
            adapter: None,
        }
    }

    /// Draws tokens in this way.
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = Some(sampling);
        self
    }

    /// Ends at this text too.
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    /// Writes only what the constraint admits.
    pub fn constraint(mut self, constraint: Constraint) -> Self {
        self.constraint = Some(constraint);
        self
    }

    /// Writes so many texts.
    pub fn samples(mut self, samples: u32) -> Self {
        self.samples = samples;
        self
    }

    /// Tells the log-probabilities of tokens, and of so many of their rivals.
    pub fn logprobs(mut self, rivals: u32) -> Self {
        self.logprobs = Some(rivals);
        self
    }

    /// Writes with this adapter.
    pub fn adapter(mut self, adapter: impl Into<String>) -> Self {
        self.adapter = Some(adapter.into());
        self
    }
}

/// A prompt and texts of which the likeliest after it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRequest {
    /// What the model sees.
    pub prompt: Prompt,
    /// The texts, none of them empty.
    pub choices: Vec<String>,
    /// The adapter to judge with, by name or by digest.
    pub adapter: Option<String>,
}

impl ScoreRequest {
    /// These choices after this prompt.
    pub fn new<T: Into<String>>(
        prompt: impl Into<Prompt>,
        choices: impl IntoIterator<Item = T>,
    ) -> Self {
        ScoreRequest {
            prompt: prompt.into(),
            choices: choices.into_iter().map(Into::into).collect(),
            adapter: None,
        }
    }
}

impl LanguageModel {
    /// Opens a model by name or digest; `"default"` is the one that was chosen for the run.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::Error::Denied) without a grant for the model.
    pub fn open(name: &str) -> Result<Self> {
        Ok(LanguageModel(wit::LanguageModel::open(name)?))
    }

    /// What this model is.
    pub fn info(&self) -> ModelInfo {
        let info = self.0.info();
        ModelInfo {
            name: info.name,
            digest: info.digest,
            architecture: info.architecture,
            context: info.context,
            vocabulary: info.vocabulary,
            dimensions: info.dimensions,
            has_chat_template: info.has_chat_template,
        }
    }

    /// The tokens of each text, without any that the model wants at a text's ends.
    pub fn tokenize<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        let texts: Vec<&str> = texts.iter().map(T::as_ref).collect();
        Ok(self.0.tokenize(&texts)?)
    }

    /// The text of each list of tokens.
    pub fn detokenize<T: AsRef<[u32]>>(&self, tokens: &[T]) -> Result<Vec<String>> {
        let tokens: Vec<&[u32]> = tokens.iter().map(T::as_ref).collect();
        Ok(self.0.detokenize(&tokens)?)
    }

    /// The likeliest text after one prompt.
    pub fn write(&self, prompt: impl Into<Prompt>, max_tokens: u32) -> Result<String> {
        let answers = self.generate(&[Request::new(prompt, max_tokens)])?;
        let written = answers.into_iter().next().transpose()?.unwrap_or_default();
        Ok(written.into_iter().map(|text| text.text).collect())
    }

    /// Writes a text, or several samples of one, to each request, and returns when all are
    /// complete. A request that could not be answered has its error in its place.
    ///
    /// # Errors
    /// Where the call as a whole cannot be taken.
    pub fn generate(&self, requests: &[Request]) -> Result<Vec<Result<Vec<Completion>>>> {
        let held = Held::of(requests);
        let answers = self.0.generate(&held.requests(requests))?;
        let answers = answers.into_iter().map(|answer| Ok(answer?));
        Ok(answers.collect())
    }

    /// The same, to be taken piece by piece.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn start(&self, requests: &[Request]) -> Result<Generation> {
        let held = Held::of(requests);
        Ok(Generation(self.0.start(&held.requests(requests))?))
    }

    /// How likely each choice of each request is, without writing anything: classification.
    pub fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<ChoiceScore>>> {
        let prompts: Vec<_> = requests.iter().map(|r| Turns::of(&r.prompt)).collect();
        let choices: Vec<Vec<&str>> = requests.iter().map(|r| borrowed(&r.choices)).collect();
        let requests: Vec<_> = requests
            .iter()
            .zip(prompts.iter().zip(&choices))
            .map(|(request, (turns, choices))| wit::ScoreRequest {
                prompt: turns.prompt(&request.prompt),
                choices,
                adapter: request.adapter.as_deref(),
            })
            .collect();
        Ok(self.0.score(&requests)?)
    }

    /// The embedding of each text: an `f32` tensor [texts, dimensions] whose rows have length 1.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor> {
        let texts: Vec<&str> = texts.iter().map(T::as_ref).collect();
        Ok(Tensor(self.0.embed(&texts)?))
    }

    #[cfg(feature = "async")]
    pub(crate) fn handle(&self) -> &wit::LanguageModel {
        &self.0
    }
}

/// Texts that are being written. Dropping it ends the writing.
pub struct Generation(wit::Generation);

impl Generation {
    /// What was written since the last call; none once all texts are complete. Waits until there
    /// is something.
    ///
    /// # Errors
    /// One request's, which could not be gone on with. The others are: call again.
    pub fn next(&mut self) -> Result<Option<Vec<Chunk>>> {
        let chunks = self.0.next()?;
        Ok((!chunks.is_empty()).then_some(chunks))
    }
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// The turns of a prompt as the contract borrows them.
struct Turns<'a>(Vec<wit::Message<'a>>);

impl<'a> Turns<'a> {
    fn of(prompt: &'a Prompt) -> Self {
        Turns(match prompt {
            Prompt::Chat(messages) => {
                let turns = messages.iter().map(|message| wit::Message {
                    role: &message.role,
                    content: &message.content,
                });
                turns.collect()
            }
            _ => Vec::new(),
        })
    }

    fn prompt(&'a self, prompt: &'a Prompt) -> wit::Prompt<'a> {
        match prompt {
            Prompt::Text(text) => wit::Prompt::Text(text),
            Prompt::Chat(_) => wit::Prompt::Chat(&self.0),
            Prompt::Tokens(tokens) => wit::Prompt::Tokens(tokens),
        }
    }
}

/// The lists of requests as the contract borrows them, while a call lasts.
pub(crate) struct Held<'a> {
    turns: Vec<Turns<'a>>,
    stops: Vec<Vec<&'a str>>,
    choices: Vec<Vec<&'a str>>,
}

impl<'a> Held<'a> {
    pub(crate) fn of(requests: &'a [Request]) -> Self {
        let choices = |request: &'a Request| match &request.constraint {
            Some(Constraint::Choices(texts)) => borrowed(texts),
            _ => Vec::new(),
        };
        Held {
            turns: requests.iter().map(|r| Turns::of(&r.prompt)).collect(),
            stops: requests.iter().map(|r| borrowed(&r.stop)).collect(),
            choices: requests.iter().map(choices).collect(),
        }
    }

    pub(crate) fn requests(&'a self, requests: &'a [Request]) -> Vec<wit::Request<'a>> {
        let held = self.turns.iter().zip(self.stops.iter().zip(&self.choices));
        requests
            .iter()
            .zip(held)
            .map(|(request, (turns, (stop, choices)))| wit::Request {
                prompt: turns.prompt(&request.prompt),
                max_tokens: request.max_tokens,
                sampling: request.sampling.as_ref().map(|sampling| wit::Sampling {
                    temperature: sampling.temperature,
                    top_k: sampling.top_k,
                    top_p: sampling.top_p,
                    min_p: sampling.min_p,
                    repetition_penalty: sampling.repetition_penalty,
                    presence_penalty: sampling.presence_penalty,
                    frequency_penalty: sampling.frequency_penalty,
                    logit_bias: &sampling.logit_bias,
                    seed: sampling.seed,
                }),
                stop,
                constraint: request
                    .constraint
                    .as_ref()
                    .map(|constraint| match constraint {
                        Constraint::Choices(_) => wit::Constraint::Choices(choices),
                        Constraint::Regex(text) => wit::Constraint::Regex(text),
                        Constraint::JsonSchema(text) => wit::Constraint::JsonSchema(text),
                        Constraint::Lark(text) => wit::Constraint::Lark(text),
                    }),
                samples: request.samples,
                logprobs: request.logprobs,
                adapter: request.adapter.as_deref(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_crosses_as_it_was_written() {
        let turns = vec![Message::system("Be brief."), Message::user("Hello")];
        let requests = [
            Request::new(turns, 7)
                .sampling(Sampling {
                    seed: Some(3),
                    ..Sampling::default()
                })
                .stop("\n")
                .constraint(Constraint::Choices(vec!["yes".into(), "no".into()]))
                .samples(2)
                .logprobs(5)
                .adapter("village"),
            Request::new("Once", 1),
        ];
        let held = Held::of(&requests);
        let crossed = held.requests(&requests);
        let wit::Prompt::Chat(turns) = &crossed[0].prompt else {
            panic!("it is a conversation");
        };
        assert_eq!((turns[1].role, turns[1].content), ("user", "Hello"));
        assert!(matches!(
            crossed[0].constraint,
            Some(wit::Constraint::Choices(["yes", "no"]))
        ));
        assert_eq!(crossed[0].stop, ["\n"]);
        assert_eq!(crossed[0].sampling.as_ref().unwrap().seed, Some(3));
        assert_eq!((crossed[0].samples, crossed[0].logprobs), (2, Some(5)));
        assert_eq!(crossed[0].adapter, Some("village"));
        assert!(matches!(crossed[1].prompt, wit::Prompt::Text("Once")));
        assert!(crossed[1].sampling.is_none() && crossed[1].constraint.is_none());
    }
}
