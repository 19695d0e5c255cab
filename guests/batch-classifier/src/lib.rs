//! Labels records by meaning, from a few examples of each label.
//!
//! The node's encoder turns a text into a vector, and texts of like meaning into vectors that
//! lie near one another. What is left to learn is where the labels lie: a softmax regression,
//! fitted in a hundred steps on the node's device. See [`head`] for how, [`lesson`] for what it
//! is fitted on.
//!
//! Where the encoder has an adapter that was trained on these very labels, nothing is left to learn:
//! see [`taught`].
//!
//! skep's repository has the same workload in Python and in JavaScript (`sdk/*/examples`), with the
//! same operators in the same order: without such an adapter the three give the same labels.

mod head;
mod lesson;
mod taught;

use head::Head;
use lesson::Lesson;
use skep_sdk::{Classifier, Document, Encoder, Label, Prediction, Result, Tensor};
use taught::Taught;

/// The most texts that are embedded in one call while fitting.
const BATCH: usize = 256;

struct BatchClassifier {
    encoder: Encoder,
    judge: Judge,
}

/// What labels texts.
enum Judge {
    /// What was learned from the examples of each label.
    Fitted(Head),
    /// What the encoder's adapter was trained for.
    Taught(Taught),
}

impl Classifier for BatchClassifier {
    fn fit(labels: Vec<Label>) -> Result<Self> {
        let lesson = Lesson::from_labels(&labels)?;
        let encoder = Encoder::open("default")?;
        let names = labels.iter().map(|label| label.name.as_str());
        if let Some(taught) = Taught::of(names, &encoder.classes()) {
            let judge = Judge::Taught(taught);
            return Ok(BatchClassifier { encoder, judge });
        }
        let parts: Vec<Tensor> = lesson
            .texts
            .chunks(BATCH)
            .map(|texts| encoder.embed(texts))
            .collect::<Result<_>>()?;
        let points = Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)?;
        let judge = Judge::Fitted(Head::fit(&points, &lesson)?);
        Ok(BatchClassifier { encoder, judge })
    }

    fn classify(&mut self, documents: Vec<Document>) -> Result<Vec<Result<Prediction, String>>> {
        let texts: Vec<&str> = documents
            .iter()
            .map(|document| document.text.trim())
            .filter(|text| !text.is_empty())
            .collect();
        let mut predictions = match (texts.as_slice(), &self.judge) {
            ([], _) => Vec::new(),
            (texts, Judge::Fitted(head)) => head.classify(&self.encoder.embed(texts)?)?,
            (texts, Judge::Taught(taught)) => {
                taught.classify(&self.encoder.classify(texts)?.to_vec()?)
            }
        }
        .into_iter();
        let one_each = documents.iter().map(|document| {
            if document.text.trim().is_empty() {
                return Err("the text is empty".to_owned());
            }
            let (label, score) = predictions.next().ok_or("the node returned too few rows")?;
            Ok(Prediction { label, score })
        });
        Ok(one_each.collect())
    }
}

skep_sdk::export_classifier!(BatchClassifier);
