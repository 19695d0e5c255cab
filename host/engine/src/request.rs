//! What is asked of a language model, and what it answers.

use skep_accounts::Account;
use skep_evidence::activations::Commitment;
use skep_text::Constraint;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who pays for pages of keys and values while they are held, and for work before it is done.
    pub account: Account,
    /// Whose requests these are: the engine shares its work evenly among owners that have any,
    /// however many requests each has.
    pub owner: u64,
    /// Requests of a higher priority come first, whoever owns them.
    pub priority: Priority,
}

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// May wait for everything else.
    Background,
    /// What most requests are.
    #[default]
    Normal,
    /// Somebody waits for the next word.
    Interactive,
}

/// A text to be gone on with.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The tokens that the model sees before it writes. At least one.
    pub prompt: Vec<u32>,
    /// Tokens to write at most, at least one.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts at which writing ends; they are not part of what is returned.
    pub stop: Vec<String>,
    /// What may be written.
    pub constraint: Option<Constraint>,
    /// How many answers to write to the same prompt, at least one. They share its pages.
    pub samples: usize,
    /// With each token its log-probability and those of so many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// The adapter to write with, by the name it was added under.
    pub adapter: Option<String>,
    /// Whether to commit to the states that lead to the tokens, so that whoever has the model can
    /// check the text ([`crate::Engine::check`]). The prompt is then computed whole, whatever is
    /// remembered of it.
    pub commit: bool,
}

impl Request {
    /// A request for the likeliest tokens after `prompt`, with everything else left open.
    pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            sampling: Sampling::GREEDY,
            stop: Vec::new(),
            constraint: None,
            samples: 1,
            logprobs: None,
            adapter: None,
            commit: false,
        }
    }
}

/// How the next token is chosen among all.
///
/// In this order: the logits are changed by `logit_bias` and the penalties, tokens that the
/// constraint forbids are taken out, the logits are divided by `temperature`; then `top_k`,
/// `top_p` and `min_p` each take out tokens, and one of those left is drawn by its probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Zero or less is the likeliest token always.
    pub temperature: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest likeliest tokens whose probabilities come to this together; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens that are in the prompt
    /// or were written (CTRL, arXiv 1909.05858, section 4.1); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token that was written.
    pub presence_penalty: f32,
    /// Taken from a token's logit for each time that it was written.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed draws the same tokens from the same model, whatever else is in the batch and
    /// whatever is guessed ahead.
    pub seed: u64,
    /// Draws by adding noise to what is left and taking the largest ([`skep_evidence::sampling`]):
    /// the same probabilities, but tokens of their own, which another machine can foretell whose
    /// logits differ in the last digits.
    pub shared_noise: bool,
}

impl Sampling {
    /// The likeliest token always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: 0,
        shared_noise: false,
    };
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model, or the constraint, ended it.
    End,
    /// One of the request's stops came up.
    Stop,
    /// It has as many tokens as were asked for, or fills the model's context.
    Length,
}

/// A token's probability, and its rivals'.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability under the model, before sampling changed it.
    pub logprob: f32,
    /// The likeliest tokens in its place, likeliest first.
    pub likeliest: Vec<(u32, f32)>,
}

/// Something new about a text that is being written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chunk {
    /// Which of the requests.
    pub request: usize,
    /// Which of its answers.
    pub sample: usize,
    /// Text that was added: whole letters only.
    pub text: String,
    /// Tokens that were added. Their text may come with a later chunk.
    pub tokens: Vec<u32>,
    /// One for each of `tokens`, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Set in the answer's last chunk.
    pub finish: Option<Finish>,
    /// In the answer's last chunk, if they were asked for: those of the prompt, then of every 32
    /// tokens.
    pub commitments: Vec<Commitment>,
}

/// An answer as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// What was written, without the stop that ended it.
    pub text: String,
    /// Its tokens, those of a stop included.
    pub tokens: Vec<u32>,
    /// One for each token, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish: Finish,
    /// Commitments to the states that led to the tokens, if they were asked for: those of the
    /// prompt, then of every 32 tokens.
    pub commitments: Vec<Commitment>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were computed before, for another request.
    pub cached_tokens: usize,
}

/// Texts of which the likeliest is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// The tokens that the model sees before each choice. At least one.
    pub prompt: Vec<u32>,
    /// The tokens of each choice, at least one each.
    pub choices: Vec<Vec<u32>>,
    /// The adapter to judge with.
    pub adapter: Option<String>,
    /// Whether the prompt is computed and charged for, whatever is remembered of it.
    pub whole: bool,
}

/// How likely a choice is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChoiceScore {
    /// The sum of its tokens' log-probabilities after the prompt.
    pub logprob: f32,
    /// Its tokens.
    pub tokens: usize,
}
