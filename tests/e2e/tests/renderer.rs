//! What the renderer asks a model for: every scene in one batch, with its grammar, and with the
//! adapter of the speaker's voice where the node has it and the run may use it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "the sandbox's own tests use the rest of it")]
#[path = "../../../host/sandbox/tests/common/scribe.rs"]
mod scribe;

use std::sync::Arc;

use scribe::{DIGEST, Pace, Scribe};
use skep_registry::Grants;
use skep_sandbox::records::{
    Action, Claim, Heard, Intent, Manner, Mood, Regard, Relation, Reply, Scene, Speaker,
};
use skep_sandbox::{
    AdapterInfo, CallLimits, Cancel, LanguageModel, ModelError, Models, Residency, RunSpec,
    Sandbox, SandboxConfig, TextAdapter, TextEncoder,
};
use skep_tensor::Account;
use skep_tests::Built;

/// The scribe as every model, and one adapter: the gruff voice's.
struct Shelf(Arc<Scribe>);

impl Models for Shelf {
    fn open(&self, name: &str, _: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }

    fn open_text(&self, _: &str, _: &Account) -> Result<Arc<dyn LanguageModel>, ModelError> {
        Ok(Arc::clone(&self.0) as Arc<dyn LanguageModel>)
    }

    fn open_adapter(&self, name: &str, _: &Account) -> Result<Arc<dyn TextAdapter>, ModelError> {
        match name {
            "voice-gruff" => Ok(Arc::new(Gruff)),
            _ => Err(ModelError::NotFound(name.to_owned())),
        }
    }
}

struct Gruff;

impl TextAdapter for Gruff {
    fn info(&self) -> AdapterInfo {
        AdapterInfo {
            name: "voice-gruff".to_owned(),
            digest: "3".repeat(64),
            base: DIGEST.to_owned(),
            base_name: "scribe".to_owned(),
            rank: 4,
            bytes: 9,
        }
    }

    fn residency(&self) -> Residency {
        Residency::Memory
    }

    fn engine_name(&self) -> String {
        "voice-gruff, the version that is open".to_owned()
    }
}

fn scene(voice: &str) -> Scene {
    Scene {
        speaker: Speaker {
            name: "Odo".to_owned(),
            role: "miller".to_owned(),
            voice: voice.to_owned(),
            mood: Mood::Calm,
            regard: Regard::Stranger,
        },
        place: "mill".to_owned(),
        time: "morning".to_owned(),
        weather: "rain".to_owned(),
        present: Vec::new(),
        claims: vec![Claim {
            relation: Relation::Have,
            terms: vec!["map".to_owned()],
        }],
        actions: vec![Action::Nothing],
        heard: Heard {
            words: "Where is the map?".to_owned(),
            intent: Intent::Ask,
            topics: vec!["map".to_owned()],
        },
    }
}

/// Renders one scene in each voice, and returns the replies and what the model was asked.
fn render(
    adapters: &[&str],
    voices: &[&str],
    manner: Manner,
) -> (Vec<Reply>, Vec<skep_engine::Request>) {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let bytes = std::fs::read(Built::component("npc-renderer")).unwrap();
    let program = Arc::new(sandbox.load(bytes).unwrap());
    let scribe = Scribe::new(Pace::AtOnce);
    let spec = RunSpec {
        grants: Grants {
            models: ["default".parse().unwrap()].into(),
            adapters: adapters.iter().map(|name| name.parse().unwrap()).collect(),
            ..Grants::default()
        },
        models: Some(Arc::new(Shelf(Arc::clone(&scribe)))),
        ..RunSpec::default()
    };
    let limits = CallLimits::default();
    let mut renderer = sandbox
        .open_renderer(&program, &spec, limits, &Cancel::new())
        .unwrap();
    let scenes = voices.iter().map(|voice| scene(voice)).collect();
    let replies = renderer.render(scenes, manner).unwrap();
    let replies = replies.into_iter().map(Result::unwrap).collect();
    let report = renderer.close().unwrap();
    assert_eq!(report.weights_bytes, 7);
    let asked = scribe.asked.lock().unwrap().clone();
    (replies, asked)
}

const MANNER: Manner = Manner {
    constrained: true,
    adapters: true,
    temperature: 0.5,
    seed: 9,
};

#[test]
fn each_scene_is_a_request_with_its_grammar_and_its_voice() {
    let (replies, asked) = render(
        &["voice-gruff", "voice-shy"],
        &["gruff", "warm", "shy"],
        MANNER,
    );
    assert_eq!(asked.len(), 3, "all scenes are one batch");
    assert!(asked.iter().all(|request| request.constraint.is_some()));
    // The gruff voice has an adapter; the warm one none that was granted; the shy one none at all.
    let used: Vec<_> = asked
        .iter()
        .map(|request| request.adapter.as_deref())
        .collect();
    assert_eq!(
        used,
        [Some("voice-gruff, the version that is open"), None, None]
    );
    let told: Vec<_> = replies
        .iter()
        .map(|reply| reply.adapter.as_deref())
        .collect();
    assert_eq!(told, [Some("3".repeat(64).as_str()), None, None]);
    assert!(replies.iter().all(|reply| reply.model == DIGEST));
    // Each draws by a seed of its own.
    assert_ne!(asked[0].sampling, asked[1].sampling);
}

#[test]
fn without_the_grammar_and_without_adapters_there_is_neither() {
    let manner = Manner {
        constrained: false,
        adapters: false,
        ..MANNER
    };
    let (replies, asked) = render(&["voice-gruff"], &["gruff"], manner);
    assert!(asked[0].constraint.is_none() && asked[0].adapter.is_none());
    assert_eq!(replies[0].adapter, None);
}
