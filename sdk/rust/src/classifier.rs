//! What a classifier is to its author.

use crate::{Error, Result};
use std::cell::RefCell;

pub use crate::bindings::batch_classifier::exports::skep::workload::classifier::{
    Document, Label, Prediction,
};

/// A classifier of the world `batch-classifier`. See [`export_classifier!`](crate::export_classifier).
///
/// The node calls `fit` once, then `classify` for batch after batch. It has parsed the records
/// already, and writes the results.
pub trait Classifier: Sized {
    /// Learns the labels. Whatever is wrong with them is an [`Error::Invalid`].
    fn fit(labels: Vec<Label>) -> Result<Self>;

    /// Labels the documents, in their order. A document that cannot be labelled has its reason
    /// in its place; an error of the whole call is for what concerns them all.
    fn classify(&mut self, documents: Vec<Document>) -> Result<Vec<Result<Prediction, String>>>;
}

/// Holds the classifier between the calls.
#[doc(hidden)]
pub struct Holder<C>(RefCell<Option<C>>);

impl<C: Classifier> Holder<C> {
    pub const fn new() -> Self {
        Holder(RefCell::new(None))
    }

    pub fn fit(&self, labels: Vec<Label>) -> Result<()> {
        // The old one goes first: two at once would be charged twice.
        self.0.replace(None);
        self.0.replace(Some(C::fit(labels)?));
        Ok(())
    }

    pub fn classify(&self, documents: Vec<Document>) -> Result<Vec<Result<Prediction, String>>> {
        match &mut *self.0.borrow_mut() {
            Some(classifier) => classifier.classify(documents),
            None => Err(Error::invalid(
                "classify was called before fit had succeeded",
            )),
        }
    }
}

impl<C: Classifier> Default for Holder<C> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives every document the last label, and refuses a single one.
    struct Last(u32);

    impl Classifier for Last {
        fn fit(labels: Vec<Label>) -> Result<Self> {
            match labels.len() {
                0 | 1 => Err(Error::invalid("fewer than two labels")),
                count => Ok(Last(count as u32 - 1)),
            }
        }

        fn classify(
            &mut self,
            documents: Vec<Document>,
        ) -> Result<Vec<Result<Prediction, String>>> {
            Ok(documents
                .iter()
                .map(|_| {
                    Ok(Prediction {
                        label: self.0,
                        score: 1.0,
                    })
                })
                .collect())
        }
    }

    fn labels(count: usize) -> Vec<Label> {
        (0..count)
            .map(|i| Label {
                name: i.to_string(),
                description: None,
                examples: vec![],
            })
            .collect()
    }

    fn label_of_one(holder: &Holder<Last>) -> Result<u32> {
        let document = Document {
            id: "1".into(),
            text: "text".into(),
        };
        let answers = holder.classify(vec![document])?;
        Ok(answers[0].as_ref().unwrap().label)
    }

    #[test]
    fn classifies_after_fit_only() {
        let holder = Holder::<Last>::new();
        assert!(matches!(label_of_one(&holder), Err(Error::Invalid(_))));
        holder.fit(labels(3)).unwrap();
        assert_eq!(label_of_one(&holder), Ok(2));
        holder.fit(labels(2)).unwrap();
        assert_eq!(label_of_one(&holder), Ok(1));
    }

    #[test]
    fn a_failed_fit_leaves_nothing_behind() {
        let holder = Holder::<Last>::new();
        holder.fit(labels(3)).unwrap();
        assert!(holder.fit(labels(1)).is_err());
        assert!(matches!(label_of_one(&holder), Err(Error::Invalid(_))));
    }
}
