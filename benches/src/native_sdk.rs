//! Stands in for `skep-sdk`: the same types and names, as far as the batch classifier uses
//! them, directly on the host's crates.

use std::cell::RefCell;
use std::fmt;
use std::ops;

use skep_model::EncodeError;
use skep_tensor::{Account, Device, Span, TensorError};

pub use skep_tensor::DType;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not done; the cases that the classifier makes or meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The arguments do not fit together.
    Invalid(String),
    /// It could not be done.
    Failed(String),
}

impl Error {
    /// The arguments are wrong, and the text says how.
    pub fn invalid(reason: impl fmt::Display) -> Self {
        Error::Invalid(reason.to_string())
    }
}

impl From<TensorError> for Error {
    fn from(error: TensorError) -> Self {
        Error::Failed(error.to_string())
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Error::Failed(error.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(reason) | Error::Failed(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}

/// A label, as the contract has it.
#[derive(Clone, Debug)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// What it means.
    pub description: Option<String>,
    /// Texts that carry it.
    pub examples: Vec<String>,
}

/// A record to be labelled, as the contract has it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its identifier.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// What a record was found to be, as the contract has it.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// The index of the label.
    pub label: u32,
    /// How sure that is.
    pub score: f32,
}

/// What a classifier is to its author.
pub trait Classifier: Sized {
    /// Learns the labels.
    ///
    /// # Errors
    /// If they cannot be learned.
    fn fit(labels: Vec<Label>) -> Result<Self>;

    /// Labels the documents, in their order.
    ///
    /// # Errors
    /// What concerns them all.
    fn classify(&mut self, documents: Vec<Document>) -> Result<Vec<Result<Prediction, String>>>;
}

/// Hands the classifier to the program around it.
#[macro_export]
macro_rules! export_classifier {
    ($classifier:ty) => {
        pub(crate) fn fit(labels: Vec<$crate::Label>) -> $crate::Result<impl $crate::Classifier> {
            <$classifier as $crate::Classifier>::fit(labels)
        }
    };
}

thread_local! {
    /// What a run has on this thread: its encoder, and its account.
    static RUN: RefCell<Option<(skep_model::Encoder, Account)>> = const { RefCell::new(None) };
}

/// Gives this thread's run an encoder and an account.
pub(crate) fn begin(encoder: skep_model::Encoder) {
    RUN.replace(Some((encoder, Account::unlimited())));
}

fn with_run<T>(act: impl FnOnce(&skep_model::Encoder, &Account) -> Result<T>) -> Result<T> {
    RUN.with_borrow(|run| match run {
        Some((encoder, account)) => act(encoder, account),
        None => Err(Error::Failed("no run began on this thread".to_owned())),
    })
}

/// The encoder of the run.
pub struct Encoder(skep_model::Encoder);

impl Encoder {
    /// Opens the run's encoder, which is the only one.
    ///
    /// # Errors
    /// If no run began on this thread.
    pub fn open(_: &str) -> Result<Self> {
        with_run(|encoder, _| Ok(Encoder(encoder.clone())))
    }

    /// The embedding of each text.
    ///
    /// # Errors
    /// The encoder's.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Tensor> {
        let texts: Vec<String> = texts.iter().map(|text| text.as_ref().to_owned()).collect();
        with_run(|_, account| Ok(Tensor(self.0.embed(&texts, account)?)))
    }

    /// None: the run's encoder has no adapter.
    pub fn classes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Nothing, since there are no classes.
    ///
    /// # Errors
    /// Always.
    pub fn classify<T: AsRef<str>>(&self, _: &[T]) -> Result<Tensor> {
        Err(Error::Failed("this encoder has no classes".to_owned()))
    }
}

/// A tensor, as the SDK shows it.
pub struct Tensor(skep_tensor::Tensor);

/// What the SDK has of each, with its name and its errors.
#[allow(missing_docs, clippy::missing_errors_doc)]
impl Tensor {
    pub fn from_f32(data: &[f32], shape: &[u32]) -> Result<Self> {
        with_run(|_, account| {
            let made = skep_tensor::Tensor::from_f32(&Device::cpu(), account, data, shape)?;
            Ok(Tensor(made))
        })
    }

    pub fn zeros(shape: &[u32], dtype: DType) -> Result<Self> {
        with_run(|_, account| {
            let made = skep_tensor::Tensor::zeros(&Device::cpu(), account, shape, dtype)?;
            Ok(Tensor(made))
        })
    }

    pub fn full(shape: &[u32], value: f32, dtype: DType) -> Result<Self> {
        with_run(|_, account| {
            let made = skep_tensor::Tensor::full(&Device::cpu(), account, shape, value, dtype)?;
            Ok(Tensor(made))
        })
    }

    pub fn shape(&self) -> Vec<u32> {
        self.0.shape().to_vec()
    }

    pub fn to_vec(&self) -> Result<Vec<f32>> {
        Ok(self.0.to_f32()?)
    }

    pub fn to_vec_i32(&self) -> Result<Vec<i32>> {
        Ok(self.0.to_i32()?)
    }

    pub fn concat(tensors: &[&Tensor], axis: i32) -> Result<Tensor> {
        let tensors: Vec<&skep_tensor::Tensor> = tensors.iter().map(|tensor| &tensor.0).collect();
        Ok(Tensor(skep_tensor::Tensor::concat(&tensors, axis)?))
    }

    pub fn slice(&self, ranges: &[ops::Range<u32>]) -> Result<Tensor> {
        let spans: Vec<Span> = ranges
            .iter()
            .map(|range| Span {
                start: range.start,
                end: range.end,
            })
            .collect();
        Ok(Tensor(self.0.slice(&spans)?))
    }

    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        Ok(Tensor(self.0.matmul(&other.0)?))
    }

    pub fn transpose(&self, axis_a: i32, axis_b: i32) -> Result<Tensor> {
        Ok(Tensor(self.0.transpose(axis_a, axis_b)?))
    }

    pub fn softmax(&self, axis: i32) -> Result<Tensor> {
        Ok(Tensor(self.0.softmax(axis)?))
    }

    pub fn sum(&self, axis: i32, keep: bool) -> Result<Tensor> {
        Ok(Tensor(self.0.sum(axis, keep)?))
    }

    pub fn max(&self, axis: i32, keep: bool) -> Result<Tensor> {
        Ok(Tensor(self.0.max(axis, keep)?))
    }

    pub fn argmax(&self, axis: i32, keep: bool) -> Result<Tensor> {
        Ok(Tensor(self.0.argmax(axis, keep)?))
    }
}

/// An operator between two tensors.
macro_rules! operator {
    ($($trait:ident $method:ident;)*) => { $(
        impl ops::$trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                Ok(Tensor(self.0.$method(&other.0)?))
            }
        }
    )* };
}

operator! { Add add; Sub sub; Mul mul; Div div; }

impl ops::Mul<f32> for &Tensor {
    type Output = Result<Tensor>;
    fn mul(self, value: f32) -> Result<Tensor> {
        Ok(Tensor(self.0.mul_scalar(value)?))
    }
}
