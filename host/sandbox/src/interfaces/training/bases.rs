//! The models that adapters are trained for, as a trainer sees them: those that write and those
//! that embed.

use std::sync::Arc;

use skep_decoder::Decoder;
use skep_model::Encoder;
use skep_tensor::Account;
use skep_train::Base;

use crate::bindings::fine_tune::skep::train::training::BaseWeights;
use crate::bindings::task::skep::model::text::Prompt;
use crate::interfaces::HostError;
use crate::interfaces::text::requests::prompt;
use crate::language::LanguageModel;
use crate::models::{BaseModel, TextEncoder};

/// What a trainer's base is, whatever its kind.
pub(super) struct About {
    pub name: String,
    pub digest: String,
    pub context: u32,
    pub vocabulary: u32,
    pub has_chat_template: bool,
    pub ends: Vec<u32>,
    pub weights_bytes: u64,
}

pub(super) fn about(model: &BaseModel) -> About {
    match model {
        BaseModel::Language(model) => {
            let info = model.info();
            About {
                name: info.name,
                digest: info.digest,
                context: info.context,
                vocabulary: info.vocabulary,
                has_chat_template: info.has_chat_template,
                ends: model.ends(),
                weights_bytes: info.weights_bytes,
            }
        }
        BaseModel::Encoder(model) => {
            let info = model.info();
            let vocabulary = model.encoder().map_or(0, |it| it.network().vocabulary);
            About {
                name: info.name,
                digest: info.digest,
                context: info.max_tokens,
                vocabulary: u32::try_from(vocabulary).unwrap_or(u32::MAX),
                has_chat_template: false,
                ends: Vec::new(),
                weights_bytes: info.weights_bytes,
            }
        }
    }
}

/// The weights of a base, as a training wants them.
pub(super) fn base_of(
    model: &BaseModel,
    weights: BaseWeights,
    account: &Account,
) -> Result<Base, HostError> {
    Ok(match (model, weights) {
        (BaseModel::Language(model), BaseWeights::Stored) => Base::stored(decoder_of(&**model)?),
        (BaseModel::Language(model), BaseWeights::Nf4) => {
            Base::nf4(&*decoder_of(&**model)?, account)?
        }
        (BaseModel::Encoder(model), BaseWeights::Stored) => Base::encoder(&encoder_of(&**model)?)?,
        (BaseModel::Encoder(model), BaseWeights::Nf4) => {
            Base::encoder_nf4(&encoder_of(&**model)?, account)?
        }
    })
}

fn decoder_of(model: &dyn LanguageModel) -> Result<Arc<Decoder>, HostError> {
    model.decoder().ok_or_else(|| not_here(&model.info().name))
}

fn encoder_of(model: &dyn TextEncoder) -> Result<Encoder, HostError> {
    model.encoder().ok_or_else(|| not_here(&model.info().name))
}

fn not_here(name: &str) -> HostError {
    HostError::failed(format!("the weights of {name} are not on this machine"))
}

/// The tokens of prompts as the base sees them.
pub(super) fn encode(
    model: &BaseModel,
    prompts: Vec<Prompt>,
    account: &Account,
) -> Result<Vec<Vec<u32>>, HostError> {
    match model {
        BaseModel::Language(model) => {
            let info = model.info();
            let prompts: Vec<_> = prompts
                .into_iter()
                .map(|asked| prompt(asked, &info))
                .collect::<Result<_, _>>()?;
            let tokens = prompts.iter().map(|prompt| {
                account.check()?;
                Ok(model.encode_prompt(prompt)?)
            });
            tokens.collect()
        }
        BaseModel::Encoder(model) => {
            let encoder = encoder_of(&**model)?;
            let tokens = prompts.into_iter().map(|prompt| {
                account.check()?;
                match prompt {
                    Prompt::Text(text) => {
                        let tokens = encoder.tokenize(&text);
                        tokens.map_err(|error| HostError::failed(error.to_string()))
                    }
                    Prompt::Tokens(tokens) => Ok(tokens),
                    Prompt::Chat(_) => Err(HostError::invalid(
                        "a sentence encoder has no template for conversations; give it texts",
                    )),
                }
            });
            tokens.collect()
        }
    }
}
