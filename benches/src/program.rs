//! What the sandbox does around the classifier, done natively: one thread reads the records and
//! writes the outcomes, another classifies, two batches of the same sizes lie between them.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::mpsc::sync_channel;

use skep_records::{Line, Outcome, OutcomeWriter};

use crate::native_sdk::{Classifier as _, Document, Label, Prediction, begin};

/// The most records of a batch, and of the first one, as in the sandbox.
const RECORDS: usize = 512;
const FIRST: usize = 64;
/// Batches that are with the classifier or on the way to it, as in the sandbox.
const AHEAD: usize = 2;

/// Whatever went wrong; a benchmark ends on it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A line that waits for its outcome: its identifier, or what is wrong with it.
type Place = (u64, Result<String, String>);

/// Learns the labels, and writes the outcome of each line to `out`.
///
/// # Errors
/// Whatever the classifier or the output says.
pub fn classify(
    encoder: &skep_model::Encoder,
    labels: &[skep_records::Label],
    lines: impl Iterator<Item = Line>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (to, batches) = sync_channel::<Vec<Document>>(AHEAD);
    let (done, answers) = sync_channel(AHEAD);
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || -> Result<(), Failure> {
            begin(encoder.clone());
            let mut classifier = crate::batch_classifier::fit(labels.iter().map(label).collect())?;
            for batch in batches {
                if done.send(classifier.classify(batch)?).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let mut write = Writer {
            labels,
            out: OutcomeWriter::new(out),
            waiting: VecDeque::new(),
        };
        let mut lines = lines.peekable();
        let mut most = FIRST;
        let mut served = Ok(());
        while served.is_ok() && lines.peek().is_some() {
            let (documents, places) = gather(&mut lines, most);
            most = RECORDS;
            if to.send(documents).is_err() {
                break;
            }
            write.waiting.push_back(places);
            if write.waiting.len() > AHEAD {
                served = match answers.recv() {
                    Ok(answers) => write.settle(answers),
                    Err(_) => break,
                };
            }
        }
        drop(to);
        for answers in answers {
            served = served.and_then(|()| write.settle(answers));
        }
        let worked = worker.join().map_err(|_| "the classifier panicked")?;
        worked.and(served)
    })
}

struct Writer<'a, W> {
    labels: &'a [skep_records::Label],
    out: OutcomeWriter<W>,
    waiting: VecDeque<Vec<Place>>,
}

impl<W: Write> Writer<'_, W> {
    /// Writes the outcomes of the oldest batch.
    fn settle(&mut self, answers: Vec<Result<Prediction, String>>) -> Result<(), Failure> {
        let mut answers = answers.into_iter();
        for (line, place) in self.waiting.pop_front().unwrap_or_default() {
            let answer = match &place {
                Ok(_) => answers.next().ok_or("a batch lost its answers")?,
                Err(reason) => Err(reason.clone()),
            };
            let id = place.as_deref().ok();
            self.out.write(&match &answer {
                Ok(prediction) => Outcome::Labelled {
                    id: id.unwrap_or_default(),
                    label: &self.labels[prediction.label as usize].name,
                    score: prediction.score.clamp(0.0, 1.0),
                },
                Err(error) => Outcome::Failed { line, id, error },
            })?;
        }
        Ok(())
    }
}

/// The next batch: its documents, and the places of all its lines.
fn gather(lines: &mut impl Iterator<Item = Line>, most: usize) -> (Vec<Document>, Vec<Place>) {
    let (mut documents, mut places) = (Vec::new(), Vec::new());
    while documents.len() < most
        && places.len() < 2 * RECORDS
        && let Some(line) = lines.next()
    {
        places.push((
            line.number,
            match line.result {
                Ok(record) => {
                    documents.push(Document {
                        id: record.id.clone(),
                        text: record.text,
                    });
                    Ok(record.id)
                }
                Err(reason) => Err(reason.to_string()),
            },
        ));
    }
    (documents, places)
}

fn label(label: &skep_records::Label) -> Label {
    Label {
        name: label.name.clone(),
        description: label.description.clone(),
        examples: label.examples.clone(),
    }
}
