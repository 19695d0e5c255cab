//! A loaded sentence encoder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_tensor::operators::{Activation, Isa, Pooling, Precision, normalize_rows};
use skep_tensor::{Account, Device, MemoryCharge, Tensor};

use crate::adapter::{BaseShape, EncoderAdapter, Part};
use crate::bert::Bert;
use crate::cost::Cost;
use crate::error::{EncodeError, LoadError};
use crate::folder::Settings;
use crate::job::{Job, Model};
use crate::tokenizer::Tokenizer;
use crate::weights::Matrix;
use crate::workers::Workers;

/// Texts of one call at most.
const MOST_TEXTS: usize = 1 << 24;

/// How to load and run an encoder.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct EncoderOptions {
    /// The numbers in which linear layers multiply. [`Precision::I16`] if not given, which keeps
    /// embeddings within a cosine of 0.99999 of those in `f32` at some 1.5 times the speed.
    pub precision: Option<Precision>,
    /// The instruction set, the machine's best if not given. It must be one of
    /// [`Isa::available`].
    pub isa: Option<Isa>,
    /// The threads that run it, those of [`Workers::shared`] if not given.
    pub workers: Option<Workers>,
}

/// What an encoder is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderInfo {
    /// Elements of an embedding.
    pub dimensions: u32,
    /// Longer texts are cut to this many tokens, special ones included.
    pub max_tokens: u32,
    /// The architecture's name, such as `BertModel`.
    pub architecture: String,
    /// Numbers that were trained.
    pub parameters: u64,
    /// Bytes of weights that it holds in memory, beside its mapped file.
    pub resident_bytes: u64,
    /// The numbers in which linear layers multiply.
    pub precision: Precision,
    /// The sizes from which the cost of a batch follows.
    pub cost: Cost,
}

/// What an encoder's network is, for whoever computes with its weights in another way. All of it
/// was checked when the encoder was loaded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Network {
    /// The file of weights.
    pub weights: PathBuf,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Elements of a token's vector.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Elements between both products of the feed-forward layer.
    pub hidden: usize,
    /// Positions that there are embeddings of.
    pub positions: usize,
    /// Tokens that a text may have; of longer ones only so many are looked at.
    pub context: usize,
    /// Types of tokens that there are embeddings of.
    pub token_types: usize,
    /// What norms add to the variance.
    pub epsilon: f32,
    /// The curve of the feed-forward layer.
    pub activation: Activation,
    /// How the vectors of tokens become one.
    pub pooling: Pooling,
}

/// A sentence encoder, ready to use from any thread. Clones are the same encoder.
#[derive(Clone)]
pub struct Encoder {
    model: Arc<Model>,
    info: Arc<EncoderInfo>,
    network: Arc<Network>,
    adapter: Option<Arc<EncoderAdapter>>,
    device: Device,
    workers: Workers,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Encoder").field(&self.info).finish()
    }
}

impl Encoder {
    /// Loads the encoder in `folder`, laid out as Hugging Face and sentence-transformers do:
    /// `config.json`, `tokenizer.json`, `model.safetensors` (f32, f16 or bf16) and, where there
    /// are any, `modules.json`, `sentence_bert_config.json` and the pooling module's
    /// `config.json`.
    ///
    /// The network runs on the CPU whatever the device; embeddings are put on `device`.
    ///
    /// # Errors
    /// [`LoadError`] when a file is missing, malformed, at odds with another, or asks for
    /// something that is not supported.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, LoadError> {
        Self::load_with(folder, device, EncoderOptions::default())
    }

    /// As [`Encoder::load`], with options.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn load_with(
        folder: &Path,
        device: &Device,
        options: EncoderOptions,
    ) -> Result<Self, LoadError> {
        let settings = Settings::read(folder)?;
        let precision = options.precision.unwrap_or(Precision::I16);
        let isa = options.isa.unwrap_or_else(Isa::best);
        let tokenizer = Tokenizer::read(
            &settings.transformer.join("tokenizer.json"),
            settings.vocabulary,
            settings.max_tokens,
            settings.lower_case,
        )?;
        let weights = settings.transformer.join("model.safetensors");
        let bert = Bert::load(&weights, &settings, isa, precision)?;
        let workers = match options.workers {
            Some(workers) => workers,
            None => Workers::shared().map_err(|error| LoadError::Internal {
                path: folder.to_owned(),
                reason: format!("no threads to run it: {error}"),
            })?,
        };
        let network = Network {
            weights,
            vocabulary: settings.vocabulary,
            width: settings.hidden,
            layers: settings.layers,
            heads: settings.heads,
            hidden: settings.intermediate,
            positions: settings.positions,
            context: settings.max_tokens,
            token_types: settings.token_types,
            epsilon: settings.epsilon,
            activation: settings.activation,
            pooling: settings.pooling,
        };
        let info = EncoderInfo {
            dimensions: settings.hidden as u32,
            max_tokens: settings.max_tokens as u32,
            architecture: settings.architecture,
            parameters: bert.parameters(),
            resident_bytes: bert.resident_bytes(),
            precision,
            cost: bert.cost(),
        };
        tracing::debug!(folder = %folder.display(), ?info, isa = isa.name(), "encoder loaded");
        Ok(Self {
            model: Arc::new(Model {
                bert,
                tokenizer,
                dimensions: settings.hidden,
                max_tokens: settings.max_tokens,
            }),
            info: Arc::new(info),
            network: Arc::new(network),
            adapter: None,
            device: *device,
            workers,
        })
    }

    /// What this encoder is.
    pub fn info(&self) -> &EncoderInfo {
        &self.info
    }

    /// The same encoder as an adapter changes it: what it embeds, it embeds with the adapter. It takes
    /// the place of the one that it has, if it has one. Weights are shared, and texts with different
    /// adapters share batches.
    ///
    /// # Errors
    /// [`EncodeError::Adapter`] when the adapter was read for an encoder of other shapes.
    pub fn with_adapter(&self, adapter: Arc<EncoderAdapter>) -> Result<Self, EncodeError> {
        if !adapter.fits(self.shape()) || adapter.isa() != self.isa() {
            return Err(EncodeError::Adapter);
        }
        Ok(Self {
            adapter: Some(adapter),
            ..self.clone()
        })
    }

    /// The adapter that it embeds with.
    pub fn adapter(&self) -> Option<&Arc<EncoderAdapter>> {
        self.adapter.as_ref()
    }

    pub(crate) fn shape(&self) -> BaseShape {
        self.model.bert.shape()
    }

    pub(crate) fn isa(&self) -> Isa {
        self.model.bert.isa()
    }

    /// The weights and the bias of a linear layer, as they are in the file.
    pub(crate) fn stored(&self, layer: (usize, Part)) -> Result<(Matrix, Vec<f32>), LoadError> {
        self.model.bert.stored(layer)
    }

    /// What its network is.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The tokens of a text as the network sees them: special ones included, and no more than it
    /// takes.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`] when the tokenizer refuses the text.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let mut tokens = Vec::new();
        let most = self.model.max_tokens;
        match self.model.tokenizer.encode(text, most, &mut tokens) {
            Ok(_) => Ok(tokens),
            Err(reason) => Err(EncodeError::Tokenizer { text: 0, reason }),
        }
    }

    /// The number of tokens in each text, special ones included, before any cut.
    ///
    /// # Errors
    /// [`EncodeError::Tokenizer`] when the tokenizer refuses a text.
    pub fn count_tokens(&self, texts: &[String]) -> Result<Vec<u32>, EncodeError> {
        let count = |(text, content): (usize, &String)| {
            let count = self.model.tokenizer.count(content);
            count
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX))
                .map_err(|reason| EncodeError::Tokenizer { text, reason })
        };
        texts.iter().enumerate().map(count).collect()
    }

    /// The embedding of each text: `f32` `[texts, dimensions]`, each row of Euclidean length 1.
    /// An embedding depends on its text only, to the last bit: not on the other texts of the
    /// call, nor on other calls.
    ///
    /// The account is charged for the result, for a copy of it while the call lasts, and for the
    /// activations and operations of each batch before it runs, by the formulas of [`Cost`]; it
    /// is checked between batches. The call blocks until the result is there.
    ///
    /// # Errors
    /// [`EncodeError::Quota`] when the account refuses; other variants when a text cannot be
    /// tokenized, the model is broken, or there are more texts than a call may bring.
    pub fn embed(&self, texts: &[String], account: &Account) -> Result<Tensor, EncodeError> {
        let width = self.model.dimensions;
        let (mut vectors, copy) = self.pooled(texts, account)?;
        if !texts.is_empty() {
            normalize_rows(&mut vectors, width)?;
        }
        let shape = [texts.len() as u32, width as u32];
        let tensor = Tensor::from_f32(&self.device, account, &vectors, &shape)?;
        drop(copy);
        Ok(tensor)
    }

    /// For each text the natural logarithm of each class's probability, by the layer for classes of its
    /// adapter: `f32` `[texts, classes]`. A row depends on its text only, as in [`Encoder::embed`], and
    /// the account is charged in the same way, for the layer as well.
    ///
    /// # Errors
    /// [`EncodeError::NoClasses`] without an adapter that has such a layer; otherwise as
    /// [`Encoder::embed`].
    pub fn classify(&self, texts: &[String], account: &Account) -> Result<Tensor, EncodeError> {
        let adapter = self.adapter.as_ref().ok_or(EncodeError::NoClasses)?;
        let classes = adapter.classes().ok_or(EncodeError::NoClasses)?;
        let (mut vectors, copy) = self.pooled(texts, account)?;
        let rows = (texts.len() as u64).saturating_mul(4 * classes as u64);
        let out = account.charge(adapter.head_flops(texts.len() as u64), rows)?;
        let rows = adapter.log_probabilities(&mut vectors, texts.len())?;
        if let Some(bad) = rows.iter().position(|x| !x.is_finite()) {
            return Err(EncodeError::NotFinite {
                text: bad / classes,
            });
        }
        let shape = [texts.len() as u32, classes as u32];
        let tensor = Tensor::from_f32(&self.device, account, &rows, &shape)?;
        drop((copy, out));
        Ok(tensor)
    }

    /// What is pooled of each text's tokens, `[texts, dimensions]`, and what keeping it is charged.
    fn pooled(
        &self,
        texts: &[String],
        account: &Account,
    ) -> Result<(Vec<f32>, MemoryCharge), EncodeError> {
        let width = self.model.dimensions;
        let bytes = texts.iter().map(String::len).fold(0, usize::saturating_add);
        if texts.len() > MOST_TEXTS {
            return Err(EncodeError::TooMany {
                texts: texts.len(),
                bytes,
            });
        }
        account.check()?;
        let copy = account.charge_memory(4 * (texts.len() * width) as u64)?;
        let mut vectors = Vec::new();
        if !texts.is_empty() {
            let (model, adapter) = (Arc::clone(&self.model), self.adapter.clone());
            let job = Arc::new(Job::new(model, adapter, account.clone(), texts));
            self.workers.submit(Arc::clone(&job));
            vectors = job.wait()?;
        }
        Ok((vectors, copy))
    }
}
