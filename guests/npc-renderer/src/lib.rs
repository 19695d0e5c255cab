//! Gives the people of a village their words.
//!
//! A scene becomes a prompt and a grammar (both are functions of `npc-scene`), and a request to
//! the node's language model, with the adapter of the speaker's voice where there is one. All
//! scenes of a call go to the model in one call. What comes back is handed on as it is: whether it
//! stands is for the village to judge, which trusts no renderer.

mod adapters;
mod bindings;

use adapters::Adapters;
use bindings::exports::skep::workload::renderer::{Guest, Manner};
use bindings::skep::model::text::{
    Completion, Constraint, LanguageModel, Prompt, Request, Sampling,
};
use npc_scene::bindings::npc::{Reply, Scene};
use npc_scene::bindings::skep::types::types::Error;
use npc_scene::{grammar, prompt};

/// Tokens of a reply at most. Three sentences and an action have fewer.
const MOST_TOKENS: u32 = 120;

/// Scenes in a call at most.
const MOST_SCENES: usize = 256;

struct Renderer;

impl Guest for Renderer {
    fn render(scenes: Vec<Scene>, manner: Manner) -> Result<Vec<Result<Reply, Error>>, Error> {
        if scenes.len() > MOST_SCENES {
            return Err(Error::Invalid(format!(
                "{} scenes in one call; at most {MOST_SCENES} are rendered at once",
                scenes.len()
            )));
        }
        if scenes.is_empty() {
            return Ok(Vec::new());
        }
        let model = LanguageModel::open("default")?;
        let digest = model.info().digest;
        let mut adapters = Adapters::default();
        let scenes: Vec<npc_scene::Scene> = scenes.into_iter().map(Into::into).collect();
        let used: Vec<Option<String>> = scenes
            .iter()
            .map(|scene| {
                manner
                    .adapters
                    .then(|| adapters.of(&scene.speaker.voice))
                    .transpose()
            })
            .map(|adapter| adapter.map(Option::flatten))
            .collect::<Result<_, Error>>()?;
        let requests: Vec<Request> = scenes
            .iter()
            .zip(&used)
            .zip(0_u64..)
            .map(|((scene, adapter), number)| request(scene, adapter.as_deref(), manner, number))
            .collect();
        let answers = model.generate(&requests)?;
        let replies = answers.into_iter().zip(used);
        let reply = |(answer, adapter): (Result<Vec<Completion>, Error>, Option<String>)| {
            let completion = answer?.into_iter().next();
            let completion = completion
                .ok_or_else(|| Error::Failed("the model gave no text at all".to_owned()))?;
            Ok(reply(completion, &digest, adapter))
        };
        Ok(replies.map(reply).collect())
    }
}

/// What the model is asked for a scene. Each scene of a call draws by a seed of its own.
fn request(
    scene: &npc_scene::Scene,
    adapter: Option<&str>,
    manner: Manner,
    number: u64,
) -> Request {
    let constraint = manner
        .constrained
        .then(|| Constraint::Lark(grammar::grammar(scene)));
    Request {
        prompt: Prompt::Text(prompt(scene)),
        max_tokens: MOST_TOKENS,
        sampling: Some(Sampling {
            temperature: manner.temperature,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: Some(manner.seed.wrapping_add(number)),
        }),
        // A reply is one line; a model that goes on has begun another scene.
        stop: vec!["\n".to_owned()],
        constraint,
        samples: 1,
        logprobs: None,
        adapter: adapter.map(str::to_owned),
    }
}

fn reply(completion: Completion, model: &str, adapter: Option<String>) -> Reply {
    Reply {
        text: completion.text,
        model: model.to_owned(),
        adapter,
        prompt_tokens: completion.prompt_tokens,
        cached_tokens: completion.cached_tokens,
        written_tokens: u32::try_from(completion.tokens.len()).unwrap_or(u32::MAX),
    }
}

bindings::export!(Renderer with_types_in bindings);
