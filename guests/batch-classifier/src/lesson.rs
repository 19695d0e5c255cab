//! What is to be learned: the texts of all labels, checked, one row each.

use skep_sdk::{Error, Label, Result};

/// Texts and whose they are.
#[derive(Debug, PartialEq)]
pub struct Lesson<'a> {
    /// Every example of every label, in order; a label's description comes after its examples.
    pub texts: Vec<&'a str>,
    /// For each text, the index of its label.
    pub owners: Vec<usize>,
    /// For each label, how many texts it has: at least one.
    pub counts: Vec<usize>,
}

impl<'a> Lesson<'a> {
    /// Gathers the texts of the labels, or says what is wrong with the labels.
    pub fn from_labels(labels: &'a [Label]) -> Result<Self> {
        if labels.len() < 2 {
            return Err(Error::invalid(format_args!(
                "a classifier needs at least two labels, and was given {}",
                labels.len()
            )));
        }
        let mut lesson = Lesson {
            texts: Vec::new(),
            owners: Vec::new(),
            counts: Vec::new(),
        };
        for (owner, label) in labels.iter().enumerate() {
            if label.name.trim().is_empty() {
                return Err(Error::invalid(format_args!(
                    "label {} has no name",
                    owner + 1
                )));
            }
            if labels[..owner].iter().any(|other| other.name == label.name) {
                return Err(Error::invalid(format_args!(
                    "two labels are named '{}'",
                    label.name
                )));
            }
            let texts = label.examples.iter().chain(&label.description);
            let texts: Vec<&str> = texts
                .map(|text| text.trim())
                .filter(|text| !text.is_empty())
                .collect();
            if texts.is_empty() {
                return Err(Error::invalid(format_args!(
                    "label '{}' has neither a description nor an example",
                    label.name
                )));
            }
            lesson.owners.extend(texts.iter().map(|_| owner));
            lesson.counts.push(texts.len());
            lesson.texts.extend(texts);
        }
        Ok(lesson)
    }

    /// How much each text counts, so that every label counts the same and all sum to 1.
    pub fn weights(&self) -> Vec<f32> {
        let labels = self.counts.len();
        self.owners
            .iter()
            .map(|&owner| (1.0 / (labels * self.counts[owner]) as f64) as f32)
            .collect()
    }

    /// The wanted answers: a row for each text, 1 in the column of its label and 0 elsewhere.
    pub fn targets(&self) -> Vec<f32> {
        let labels = self.counts.len();
        let row =
            |&owner: &usize| (0..labels).map(move |label| f32::from(u8::from(label == owner)));
        self.owners.iter().flat_map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, description: Option<&str>, examples: &[&str]) -> Label {
        Label {
            name: name.into(),
            description: description.map(Into::into),
            examples: examples.iter().map(|&text| text.into()).collect(),
        }
    }

    fn refusal(labels: &[Label]) -> String {
        match Lesson::from_labels(labels) {
            Err(Error::Invalid(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn gathers_examples_and_descriptions() {
        let labels = [
            label("a", Some("about a"), &["a1", " a2 ", " "]),
            label("b", Some("about b"), &[]),
            label("c", None, &["c1"]),
        ];
        let lesson = Lesson::from_labels(&labels).unwrap();
        assert_eq!(lesson.texts, ["a1", "a2", "about a", "about b", "c1"]);
        assert_eq!(lesson.owners, [0, 0, 0, 1, 2]);
        assert_eq!(lesson.counts, [3, 1, 1]);
        assert_eq!(lesson.targets().chunks(3).nth(3).unwrap(), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn every_label_counts_the_same() {
        let labels = [label("a", None, &["1", "2", "3"]), label("b", None, &["4"])];
        let weights = Lesson::from_labels(&labels).unwrap().weights();
        assert_eq!(weights[3], 0.5);
        assert!((weights[..3].iter().sum::<f32>() - 0.5).abs() < 1e-6);
    }

    #[test]
    fn says_what_is_wrong_with_the_labels() {
        let good = label("good", None, &["text"]);
        assert!(refusal(&[]).contains("given 0"));
        assert!(refusal(std::slice::from_ref(&good)).contains("given 1"));
        assert!(refusal(&[good.clone(), good.clone()]).contains("two labels are named 'good'"));
        assert!(refusal(&[good.clone(), label(" ", None, &["x"])]).contains("label 2 has no name"));
        let empty = label("empty", Some(""), &[" "]);
        assert!(refusal(&[good, empty]).contains("'empty' has neither"));
    }
}
