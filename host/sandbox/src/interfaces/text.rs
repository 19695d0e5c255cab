//! `skep:model/text`: language models that the node shares among runs.
//!
//! Prompts are cut into tokens on the threads for models; the engine writes on threads of its
//! own. The guest waits suspended and takes no thread of either, so that a text of any length
//! holds up nobody. When a run ends, or a guest drops what it has, the writing ends.

pub(crate) mod requests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use skep_engine::{Caller, Priority, ScoreRequest};
use skep_tensor::Tensor;
use wasmtime::component::Resource;

use self::requests::{
    CHOICES, REQUESTS, at_most, check_text, check_tokens, chunk_to_contract,
    completion_to_contract, number, text_in, text_in_request,
};
use super::types::HostError;
use crate::bindings::task::skep::model::text::{
    ChoiceScore, Chunk, Completion, Host, HostGeneration, HostLanguageModel, ModelInfo, Request,
    ScoreRequest as AskedScore,
};
use crate::bindings::task::skep::types::types::{Error, Host as _};
use crate::language::{Answer, LanguageModel, LanguageModelInfo, OpenModel, Prompt, TextAdapter};
use crate::models::ModelError;
use crate::repeatable;
use crate::state::State;
use crate::writing::{Adapter, Draft, Preparation, Promise, Writing};

/// Requests that were checked one by one, and what their texts promise to keep to.
pub(crate) type Drafts = (Vec<Result<Draft, HostError>>, Promise);

impl Host for State {}

impl State {
    fn model(&self, this: &Resource<OpenModel>) -> Result<Arc<dyn LanguageModel>, HostError> {
        Ok(Arc::clone(&self.table.get(this)?.0))
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller {
            account: self.texts.clone(),
            owner: self.owner.number(),
            priority: match self.spec.waits_for_others {
                true => Priority::Background,
                false => Priority::Normal,
            },
        }
    }

    pub(crate) fn preparation(&self, model: &Arc<dyn LanguageModel>) -> Preparation {
        Preparation::new(Arc::clone(model), self.spec.models.clone(), self.caller())
    }

    /// The adapter that a request names, if the run may use it.
    fn adapter(&self, name: Option<String>) -> Result<Option<Adapter>, HostError> {
        let Some(name) = name else { return Ok(None) };
        if !self.spec.grants.allows_adapter(&name) {
            return Err(super::adapters::denied(&name));
        }
        Ok(Some(match self.adapters.get(&name) {
            Some((adapter, _)) => Adapter::Open(Arc::clone(adapter)),
            None => Adapter::Named(name),
        }))
    }

    /// Checks the requests of a call: errors are those of the call as a whole.
    pub(crate) fn drafts(
        &self,
        model: &LanguageModelInfo,
        asked: Vec<Request>,
    ) -> Result<Drafts, HostError> {
        at_most("requests in one call", asked.len(), REQUESTS)?;
        let samples = asked.iter().map(|request| request.samples as usize);
        at_most("texts in one call", samples.sum(), REQUESTS)?;
        check_text(asked.iter().map(text_in_request).sum())?;
        let drafts: Vec<_> = asked
            .into_iter()
            .map(|asked| self.draft(model, asked))
            .collect();
        let promised = drafts
            .iter()
            .flatten()
            .fold(0_u64, |sum, draft| sum.saturating_add(draft.promises()));
        let promise = self.promises.give(promised).map_err(HostError::Quota)?;
        Ok((drafts, promise))
    }

    fn draft(&self, model: &LanguageModelInfo, mut asked: Request) -> Result<Draft, HostError> {
        if self.spec.texts.are_shown() && asked.logprobs.is_some() {
            return Err(differs("log-probabilities"));
        }
        let mut request = requests::request(&mut asked, model, || self.seed())?;
        // So that others can tell which token should have come.
        request.sampling.shared_noise = self.spec.texts.are_shown();
        // So that it is written from its first token on, whatever is remembered of it.
        request.commit = self.spec.seed.is_some();
        Ok(Draft {
            prompt: requests::prompt(asked.prompt, model)?,
            adapter: self.adapter(asked.adapter)?,
            request,
        })
    }

    /// The seed of a request that names none: one that nobody can foretell, or the next one of a
    /// run that can be repeated.
    fn seed(&self) -> Result<u64, HostError> {
        match self.spec.seed {
            None => random_seed(),
            Some(seed) => {
                let number = self.unseeded.fetch_add(1, Ordering::Relaxed);
                Ok(repeatable::text_seed(seed, number))
            }
        }
    }

    /// Begins to write, on a thread for models.
    pub(crate) fn write(
        &self,
        model: &Arc<dyn LanguageModel>,
        (drafts, promise): Drafts,
    ) -> impl Future<Output = Result<Writing, HostError>> + Send + use<> {
        let preparation = self.preparation(model);
        let writing = self
            .threads
            .model(move || preparation.write(drafts, promise));
        async { Ok(writing.await?) }
    }

    async fn begin(
        &mut self,
        this: &Resource<OpenModel>,
        asked: Vec<Request>,
    ) -> Result<Writing, HostError> {
        self.host_calls += 1;
        let model = self.model(this)?;
        let drafts = self.drafts(&model.info(), asked)?;
        let writing = match self.spec.texts.are_shown() {
            false => self.write(&model, drafts).await?,
            true => self.write_shown(&model, drafts).await?,
        };
        self.lent.adapters.extend(writing.adapters());
        Ok(writing)
    }
}

/// Why a run whose texts are shown is not told some numbers.
fn differs(what: &str) -> HostError {
    HostError::invalid(format!(
        "{what} differ between machines, and this run is one that a machine of another kind may \
         repeat; leave them out, or have the job audited by machines of one kind"
    ))
}

/// A seed that nobody can foretell.
fn random_seed() -> Result<u64, HostError> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)
        .map_err(|error| HostError::failed(format!("the system has no randomness: {error}")))?;
    Ok(u64::from_le_bytes(seed))
}

impl HostLanguageModel for State {
    async fn open(&mut self, name: String) -> Result<Resource<OpenModel>, HostError> {
        self.host_calls += 1;
        if !self.spec.grants.allows_model(&name) {
            let name: String = name.chars().take(100).collect();
            return Err(HostError::denied(format!("grants.models: \"{name}\"")));
        }
        let Some(models) = self.spec.models.clone() else {
            return Err(HostError::from(ModelError::NotFound(name)));
        };
        // As with encoders, nobody pays for loading a model, and the run's wall time goes on.
        let account = self.account.clone();
        let model = self
            .threads
            .model(move || models.open_text(&name, &account))
            .await??;
        let info = model.info();
        self.owner.asks(info.digest.clone(), &model);
        self.lent.models.insert(info.digest, info.weights_bytes);
        self.lent.devices.insert(info.device, info.device_bytes);
        Ok(self.table.push(OpenModel(model))?)
    }

    fn info(&mut self, this: Resource<OpenModel>) -> wasmtime::Result<ModelInfo> {
        self.host_calls += 1;
        let info = self.table.get(&this)?.0.info();
        Ok(ModelInfo {
            name: info.name,
            digest: info.digest,
            architecture: info.architecture,
            context: info.context,
            vocabulary: info.vocabulary,
            dimensions: info.dimensions,
            has_chat_template: info.has_chat_template,
        })
    }

    async fn tokenize(
        &mut self,
        this: Resource<OpenModel>,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<u32>>, HostError> {
        self.host_calls += 1;
        check_text(texts.iter().map(String::len).sum())?;
        let (model, account) = (self.model(&this)?, self.account.clone());
        let tokens = self.threads.model(move || {
            let tokens = texts.iter().map(|text| {
                account.check()?;
                Ok(model.tokenize(text)?)
            });
            tokens.collect::<Result<_, HostError>>()
        });
        tokens.await?
    }

    async fn detokenize(
        &mut self,
        this: Resource<OpenModel>,
        tokens: Vec<Vec<u32>>,
    ) -> Result<Vec<String>, HostError> {
        self.host_calls += 1;
        let (model, account) = (self.model(&this)?, self.account.clone());
        let limit = self.limits.call_bytes;
        let texts = self.threads.model(move || {
            let info = model.info();
            let mut room = limit;
            let mut texts = Vec::with_capacity(tokens.len());
            for tokens in &tokens {
                account.check()?;
                check_tokens(tokens, &info)?;
                let text = model.detokenize(tokens)?;
                // A token of few bytes may be a text of many.
                room = room.checked_sub(text.len() as u64).ok_or_else(|| {
                    HostError::Quota(crate::error::QuotaExcess {
                        quota: crate::error::Quota::CallBytes,
                        limit,
                        asked: limit.saturating_add(1),
                    })
                })?;
                texts.push(text);
            }
            Ok(texts)
        });
        texts.await?
    }

    async fn generate(
        &mut self,
        this: Resource<OpenModel>,
        asked: Vec<Request>,
    ) -> Result<Vec<Result<Vec<Completion>, Error>>, HostError> {
        let mut writing = self.begin(&this, asked).await?;
        let threads = Arc::clone(&self.threads);
        let answers = threads.waiting(|context| writing.poll_all(context)).await;
        drop(writing);
        let told = answers.into_iter().map(|answer| {
            Ok(match answer {
                Ok(texts) => Ok(texts.into_iter().map(completion_to_contract).collect()),
                Err(error) => Err(self.convert_error(error).map_err(HostError::Trap)?),
            })
        });
        told.collect()
    }

    async fn start(
        &mut self,
        this: Resource<OpenModel>,
        asked: Vec<Request>,
    ) -> Result<Resource<Writing>, HostError> {
        let writing = self.begin(&this, asked).await?;
        Ok(self.table.push(writing)?)
    }

    async fn score(
        &mut self,
        this: Resource<OpenModel>,
        asked: Vec<AskedScore>,
    ) -> Result<Vec<Vec<ChoiceScore>>, HostError> {
        self.host_calls += 1;
        if self.spec.texts.are_shown() {
            return Err(differs("scores"));
        }
        let model = self.model(&this)?;
        let info = model.info();
        at_most("requests in one call", asked.len(), REQUESTS)?;
        let text_of = |asked: &AskedScore| {
            text_in(&asked.prompt) + asked.choices.iter().map(String::len).sum::<usize>()
        };
        check_text(asked.iter().map(text_of).sum())?;
        let mut drafts = Vec::with_capacity(asked.len());
        for asked in asked {
            at_most("choices", asked.choices.len(), CHOICES)?;
            let prompt = requests::prompt(asked.prompt, &info)?;
            drafts.push((prompt, asked.choices, self.adapter(asked.adapter)?));
        }
        let preparation = self.preparation(&model);
        let whole = self.spec.seed.is_some();
        let begun = self
            .threads
            .model(move || score(preparation, drafts, whole));
        let (mut scores, adapters) = begun.await??;
        for adapter in &adapters {
            let info = adapter.info();
            self.lent.adapters.insert(info.digest, info.bytes);
        }
        let scores = self
            .threads
            .waiting(|context| scores.as_mut().poll(context))
            .await?;
        let told = |scores: Vec<skep_engine::ChoiceScore>| {
            let scores = scores.into_iter().map(|score| ChoiceScore {
                logprob: score.logprob,
                tokens: number(score.tokens),
            });
            scores.collect()
        };
        Ok(scores.into_iter().map(told).collect())
    }

    async fn embed(
        &mut self,
        this: Resource<OpenModel>,
        texts: Vec<String>,
    ) -> Result<Resource<Tensor>, HostError> {
        self.host_calls += 1;
        if self.spec.texts.are_shown() {
            return Err(differs("embeddings"));
        }
        at_most("texts in one call", texts.len(), REQUESTS)?;
        check_text(texts.iter().map(String::len).sum())?;
        let model = self.model(&this)?;
        let shape = [number(texts.len()), model.info().dimensions];
        let preparation = self.preparation(&model);
        let begun = self.threads.model(move || embed(&preparation, texts));
        let mut rows = begun.await??;
        let rows = self
            .threads
            .waiting(|context| rows.as_mut().poll(context))
            .await?;
        let tensor = Tensor::from_f32(&self.device, &self.account, &rows, &shape)?;
        Ok(self.table.push(tensor)?)
    }

    fn drop(&mut self, this: Resource<OpenModel>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}

/// Scores that are on their way, and the adapters to be kept until they are there.
type Scoring = (
    Answer<Vec<Vec<skep_engine::ChoiceScore>>>,
    Vec<Arc<dyn TextAdapter>>,
);

/// Cuts prompts and choices into tokens, and has them judged.
fn score(
    mut preparation: Preparation,
    drafts: Vec<(Prompt, Vec<String>, Option<Adapter>)>,
    whole: bool,
) -> Result<Scoring, HostError> {
    let mut requests = Vec::with_capacity(drafts.len());
    for (prompt, choices, adapter) in drafts {
        let prompt = preparation.prompt(&prompt)?;
        let context = preparation.model.info().context as usize;
        let mut cut = Vec::with_capacity(choices.len());
        for choice in &choices {
            let tokens = preparation.model.tokenize(choice)?;
            if tokens.is_empty() {
                return Err(HostError::invalid("a choice is empty"));
            }
            at_most(
                "tokens of a prompt with a choice",
                prompt.len() + tokens.len(),
                context,
            )?;
            cut.push(tokens);
        }
        requests.push(ScoreRequest {
            prompt,
            choices: cut,
            adapter: preparation.adapter(adapter)?,
            whole,
        });
    }
    let scores = preparation.model.score(&preparation.caller, requests);
    Ok((scores, preparation.adapters()))
}

/// Cuts texts into tokens, and has them embedded.
fn embed(preparation: &Preparation, texts: Vec<String>) -> Result<Answer<Vec<f32>>, HostError> {
    let prompts = texts
        .into_iter()
        .map(|text| preparation.prompt(&Prompt::Text(text)));
    let prompts = prompts.collect::<Result<_, _>>()?;
    Ok(preparation.model.embed(&preparation.caller, prompts))
}

impl HostGeneration for State {
    async fn next(&mut self, this: Resource<Writing>) -> Result<Vec<Chunk>, HostError> {
        self.host_calls += 1;
        let threads = Arc::clone(&self.threads);
        let whole = self.spec.seed.is_some();
        let writing = self.table.get_mut(&this)?;
        let chunks = threads
            .waiting(|context| match whole {
                false => writing.poll_next(context),
                true => writing.poll_whole(context),
            })
            .await?;
        Ok(chunks.into_iter().map(chunk_to_contract).collect())
    }

    fn drop(&mut self, this: Resource<Writing>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}
