//! Runs of the world `batch-classifier`: labels are learned once, then records are labelled
//! batch after batch, and a bad line is an outcome like any other.
//!
//! The caller's thread reads ahead and writes while the guest works, two batches at most, so
//! that memory is bounded whatever the size of the input.

use std::collections::VecDeque;
use std::sync::Arc;

use skep_records::{Label, Line, Outcome, OutcomeWriter};
use tokio::sync::{mpsc, oneshot};
use wasmtime::Store;

use super::cancel::Cancel;
use super::records::{OutcomeSink, Progress};
use super::report::RunReport;
use super::spec::RunSpec;
use super::{Ending, FailedRun, explain};
use crate::bindings::classifier::exports::skep::workload::classifier as contract;
use crate::error::{Quota, QuotaExcess, RunError};
use crate::program::Program;
use crate::sandbox::Sandbox;
use crate::state::State;
use crate::task_io::TaskIo;

/// The most records of a batch, and of the first one, which is small so that results soon show.
const RECORDS: usize = 512;
const FIRST: usize = 64;
/// The most bytes of text of a batch, unless one record alone has more.
const TEXT: usize = 1 << 20;
/// Batches that are with the guest or on the way to it.
const AHEAD: usize = 2;

type Answers = Vec<Result<contract::Prediction, String>>;

/// What the guest does.
pub(crate) struct Work {
    labels: Vec<contract::Label>,
    batches: mpsc::Receiver<Vec<contract::Document>>,
    answers: mpsc::Sender<Answers>,
}

impl Work {
    pub(crate) async fn run(
        mut self,
        store: &mut Store<State>,
        program: &Program,
    ) -> Result<(), Ending> {
        let labels = self.labels.len();
        let guest = program
            .as_classifier()?
            .instantiate_async(&mut *store)
            .await?;
        let guest = guest.skep_workload_classifier();
        guest
            .call_fit(&mut *store, &self.labels)
            .await?
            .map_err(explain::returned)?;
        drop(std::mem::take(&mut self.labels));
        while let Some(batch) = self.batches.recv().await {
            let answers = guest
                .call_classify(&mut *store, &batch)
                .await?
                .map_err(explain::returned)?;
            let answers = checked(answers, batch.len(), labels)?;
            if self.answers.send(answers).await.is_err() {
                // The caller has gone, and knows why.
                return Err(RunError::Cancelled.into());
            }
        }
        Ok(())
    }
}

/// Holds the guest to its contract.
fn checked(mut answers: Answers, asked: usize, labels: usize) -> Result<Answers, RunError> {
    if answers.len() != asked {
        return Err(RunError::Contract(format!(
            "`classify` answered {} of {asked} documents",
            answers.len()
        )));
    }
    for answer in &mut answers {
        match answer {
            Ok(prediction) if prediction.label as usize >= labels => {
                return Err(RunError::Contract(format!(
                    "`classify` gave the label {} of {labels}",
                    prediction.label
                )));
            }
            Ok(prediction) => {
                // Not worth ending a run for, and not to be handed on either.
                prediction.score = if prediction.score.is_nan() {
                    0.0
                } else {
                    prediction.score.clamp(0.0, 1.0)
                };
            }
            Err(reason) => *reason = explain::clip(reason),
        }
    }
    Ok(answers)
}

impl Sandbox {
    /// Labels records: hands `labels` to the guest's `fit` and the records to its `classify`,
    /// and puts one outcome for each line into `sink`, in order. Blocks until it is over.
    ///
    /// `lines` and `sink` are used on the calling thread only. `progress` is told after each
    /// batch.
    ///
    /// # Errors
    /// [`FailedRun`], with what the run used. The outcomes until then are in the sink.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one side of the run, and named"
    )]
    pub fn classify(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        labels: &[Label],
        lines: impl Iterator<Item = Line>,
        sink: &mut dyn OutcomeSink,
        progress: &mut dyn FnMut(Progress),
        cancel: &Cancel,
    ) -> Result<RunReport, FailedRun> {
        program.as_classifier()?;
        let names: Vec<&str> = labels.iter().map(|label| label.name.as_str()).collect();
        let (batches, to_guest) = mpsc::channel(AHEAD);
        let (answers, from_guest) = mpsc::channel(AHEAD);
        let (done, ended) = oneshot::channel();
        let work = super::Work::Classify(Work {
            labels: labels.iter().map(to_contract).collect(),
            batches: to_guest,
            answers,
        });
        let stop = Cancel::new();
        let cancels = [cancel.clone(), stop.clone()];
        self.start(
            program,
            spec,
            cancels,
            TaskIo::default(),
            work,
            move |report, result| {
                // Both ends are of this function, which waits below.
                let _ = done.send((report, result));
            },
        )?;
        let mut desk = Desk {
            names,
            sink,
            progress,
            limit: self.limits_of(spec).output,
            written: 0,
            line: Vec::new(),
            count: Progress::default(),
            waiting: VecDeque::new(),
            from_guest,
        };
        let served = desk.serve(lines, batches);
        if served.is_err() {
            stop.cancel();
        }
        desk.from_guest.close();
        let (mut report, result) = ended.blocking_recv().map_err(|_| {
            FailedRun::from(RunError::HostBug("the guest's thread was lost".to_owned()))
        })?;
        report.records = desk.count.done;
        report.errors = desk.count.errors;
        report.output_bytes = desk.written;
        report.output_truncated = matches!(&served, Err(RunError::Quota(_)));
        if report.seconds > 0.0 {
            report.records_per_s = report.records as f64 / report.seconds;
        }
        match served.and(result) {
            Ok(()) => Ok(report),
            Err(error) => Err(FailedRun {
                error,
                report: Box::new(report),
            }),
        }
    }
}

/// A line that waits for its outcome.
enum Place {
    /// With the guest.
    Asked { line: u64, id: String },
    /// It was no record.
    Bad { line: u64, reason: String },
}

/// The caller's side of a classification.
struct Desk<'a> {
    names: Vec<&'a str>,
    sink: &'a mut dyn OutcomeSink,
    progress: &'a mut dyn FnMut(Progress),
    limit: u64,
    written: u64,
    line: Vec<u8>,
    count: Progress,
    /// The batches that were sent, in order, with the bad lines between their records.
    waiting: VecDeque<Vec<Place>>,
    from_guest: mpsc::Receiver<Answers>,
}

impl Desk<'_> {
    fn serve(
        &mut self,
        lines: impl Iterator<Item = Line>,
        batches: mpsc::Sender<Vec<contract::Document>>,
    ) -> Result<(), RunError> {
        let mut lines = lines.peekable();
        let mut most = FIRST;
        while lines.peek().is_some() {
            let (documents, places) = gather(&mut lines, most);
            most = RECORDS;
            let empty = documents.is_empty();
            if !empty && batches.blocking_send(documents).is_err() {
                // The guest has ended, and says why elsewhere.
                return Ok(());
            }
            self.waiting.push_back(places);
            if empty {
                // Nothing but bad lines: they wait for those before them and for no answer.
                while self.waiting.len() > 1 {
                    if !self.settle()? {
                        return Ok(());
                    }
                }
                self.settle_without_guest()?;
            } else if self.waiting.len() > AHEAD && !self.settle()? {
                return Ok(());
            }
        }
        drop(batches);
        while !self.waiting.is_empty() {
            if !self.settle()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes the outcomes of the oldest batch. False if the guest has ended instead.
    fn settle(&mut self) -> Result<bool, RunError> {
        let Some(answers) = self.from_guest.blocking_recv() else {
            return Ok(false);
        };
        self.write(answers)?;
        Ok(true)
    }

    fn settle_without_guest(&mut self) -> Result<(), RunError> {
        self.write(Vec::new())
    }

    fn write(&mut self, answers: Answers) -> Result<(), RunError> {
        let mut answers = answers.into_iter();
        for place in self.waiting.pop_front().unwrap_or_default() {
            match place {
                Place::Bad { line, reason } => self.put(&Outcome::Failed {
                    line,
                    id: None,
                    error: &reason,
                })?,
                Place::Asked { line, id } => match answers.next() {
                    Some(Ok(prediction)) => {
                        let label = self.names.get(prediction.label as usize).copied();
                        self.put(&Outcome::Labelled {
                            id: &id,
                            label: label.unwrap_or_default(),
                            score: prediction.score,
                        })?;
                    }
                    Some(Err(reason)) => self.put(&Outcome::Failed {
                        line,
                        id: Some(&id),
                        error: &reason,
                    })?,
                    None => {
                        return Err(RunError::HostBug("a batch lost its answers".to_owned()));
                    }
                },
            }
        }
        (self.progress)(self.count);
        Ok(())
    }

    fn put(&mut self, outcome: &Outcome<'_>) -> Result<(), RunError> {
        self.line.clear();
        OutcomeWriter::new(&mut self.line)
            .write(outcome)
            .map_err(RunError::Output)?;
        let asked = self.written.saturating_add(self.line.len() as u64);
        if asked > self.limit {
            return Err(RunError::Quota(QuotaExcess {
                quota: Quota::Output,
                limit: self.limit,
                asked,
            }));
        }
        self.sink
            .put(outcome, &self.line)
            .map_err(RunError::Output)?;
        self.written = asked;
        self.count.done += 1;
        self.count.errors += u64::from(matches!(outcome, Outcome::Failed { .. }));
        Ok(())
    }
}

/// The next batch: its documents, and the places of all its lines.
fn gather(
    lines: &mut std::iter::Peekable<impl Iterator<Item = Line>>,
    most: usize,
) -> (Vec<contract::Document>, Vec<Place>) {
    let mut documents = Vec::new();
    let mut places = Vec::new();
    let mut text = 0;
    while documents.len() < most
        && places.len() < 2 * RECORDS
        && let Some(line) = lines.next_if(|line| match &line.result {
            Ok(record) => text == 0 || text + record.text.len() <= TEXT,
            Err(_) => true,
        })
    {
        match line.result {
            Ok(record) => {
                text += record.text.len().max(1);
                places.push(Place::Asked {
                    line: line.number,
                    id: record.id.clone(),
                });
                documents.push(contract::Document {
                    id: record.id,
                    text: record.text,
                });
            }
            Err(reason) => places.push(Place::Bad {
                line: line.number,
                reason: reason.to_string(),
            }),
        }
    }
    (documents, places)
}

fn to_contract(label: &Label) -> contract::Label {
    contract::Label {
        name: label.name.clone(),
        description: label.description.clone(),
        examples: label.examples.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_records::Record;

    fn line(number: u64, length: usize) -> Line {
        Line {
            number,
            result: Ok(Record {
                id: number.to_string(),
                text: "x".repeat(length),
                label: None,
            }),
        }
    }

    #[test]
    fn batches_end_at_the_number_and_at_the_text() {
        let mut lines = (1..=1000).map(|n| line(n, 10)).peekable();
        assert_eq!(gather(&mut lines, 64).0.len(), 64);
        assert_eq!(gather(&mut lines, 512).0.len(), 512);
        let mut long = (1..=5).map(|n| line(n, TEXT / 2)).peekable();
        assert_eq!(gather(&mut long, 512).0.len(), 2);
        let mut huge = (1..=2).map(|n| line(n, 3 * TEXT)).peekable();
        assert_eq!(gather(&mut huge, 512).0.len(), 1);
        assert_eq!(gather(&mut huge, 512).0.len(), 1);
    }

    #[test]
    fn a_guest_is_held_to_its_contract() {
        let prediction = |label, score| Ok(contract::Prediction { label, score });
        assert!(checked(vec![prediction(0, 0.5)], 2, 2).is_err());
        assert!(checked(vec![prediction(2, 0.5)], 1, 2).is_err());
        let answers = checked(
            vec![
                prediction(1, f32::NAN),
                prediction(0, 7.0),
                Err("y".repeat(9_000)),
            ],
            3,
            2,
        )
        .unwrap();
        assert!(matches!(&answers[0], Ok(p) if p.score == 0.0));
        assert!(matches!(&answers[1], Ok(p) if p.score == 1.0));
        assert!(matches!(&answers[2], Err(reason) if reason.len() < 2_000));
    }
}
