//! From records to examples: tokens, and which of them are learned.

use std::collections::BTreeSet;

use crate::bindings::skep::model::text::{LanguageModel, Message, Prompt};
use crate::bindings::skep::train::training::{Example, Trainer, TrainerInfo};
use crate::bindings::skep::types::types::Error;
use crate::data::{Numbered, Part, Record};
use crate::schedule::shuffled;

/// Texts that are cut into tokens in one call, and bytes of them.
const TEXTS: usize = 512;
const BYTES: usize = 1 << 20;

/// Examples, apart for learning, for looking whether anything was learned, and for the end.
#[derive(Default)]
pub struct Data {
    pub training: Vec<Example>,
    pub held_out: Vec<Example>,
    pub test: Vec<Example>,
    /// What classes are called, where classes are learned rather than tokens.
    pub classes: Vec<String>,
    /// For each example that is held out what comes before the words that are learned.
    pub prompts: Vec<Vec<u32>>,
}

/// A text that is learned, and what comes before it.
struct Asked {
    line: usize,
    part: Part,
    prompt: Prompt,
    answer: String,
    label: Option<String>,
}

/// Cuts the records into tokens and divides them.
///
/// # Errors
/// When one is longer than the model's context, there are too few to divide, or the model cannot
/// be asked what a record asks.
pub fn prepare(
    trainer: &Trainer,
    model: &LanguageModel,
    records: Vec<Numbered>,
    share: f32,
    seed: u64,
) -> Result<Data, Error> {
    let info = trainer.info();
    let asked: Vec<Asked> = records.into_iter().flat_map(asked_of).collect();
    if !info.has_chat_template
        && let Some(chat) = asked.iter().find(|a| matches!(a.prompt, Prompt::Chat(_)))
    {
        return Err(Error::Invalid(format!(
            "line {}: {} has no template for conversations; write `prompt` and `completion`",
            chat.line, info.base_name
        )));
    }
    let mut cut = Vec::with_capacity(asked.len());
    for part in parts(&asked) {
        let prompts = prompts_of(part);
        let answers: Vec<String> = part.iter().map(|asked| asked.answer.clone()).collect();
        let prompts = trainer.encode(&prompts)?;
        let answers = model.tokenize(&answers)?;
        for (asked, (prompt, answer)) in part.iter().zip(prompts.into_iter().zip(answers)) {
            cut.push((prompt.clone(), example(asked.line, prompt, &answer, &info)?));
        }
    }
    divide(cut, &asked, share, seed)
}

/// The names of all classes that records have, in alphabetical order.
///
/// # Errors
/// At the first record that has none, and where there are fewer than two.
pub fn classes(records: &[Numbered]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for Numbered { line, record, .. } in records {
        match record {
            Record::Labelled { label, .. } => names.push(label.clone()),
            _ => {
                return Err(format!(
                    "line {line}: a sentence encoder learns to tell texts apart; write `text` and \
                     `label`"
                ));
            }
        }
    }
    names.sort();
    names.dedup();
    match names.len() {
        0 | 1 => Err("all lines have one label, and at least two are needed".to_owned()),
        _ => Ok(names),
    }
}

/// Cuts texts into tokens and divides them, each with its class.
///
/// # Errors
/// As [`prepare`], and when a test has a class that nothing else teaches.
pub fn prepare_classes(
    trainer: &Trainer,
    records: Vec<Numbered>,
    classes: Vec<String>,
    share: f32,
    seed: u64,
) -> Result<Data, Error> {
    let of = |numbered: Numbered| match numbered.record {
        Record::Labelled { text, label } => Some(Asked {
            line: numbered.line,
            part: numbered.part,
            prompt: Prompt::Text(text),
            answer: String::new(),
            label: Some(label),
        }),
        _ => None,
    };
    let asked: Vec<Asked> = records.into_iter().filter_map(of).collect();
    let mut cut = Vec::with_capacity(asked.len());
    for part in parts(&asked) {
        let texts = trainer.encode(&prompts_of(part))?;
        for (asked, tokens) in part.iter().zip(texts) {
            let label = asked.label.as_deref().unwrap_or_default();
            let class = classes.binary_search_by(|name| name.as_str().cmp(label));
            let class = class.map_err(|_| Error::Failed(format!("no class is {label:?}")))?;
            let example = Example {
                tokens,
                weights: Vec::new(),
                label: Some(class as u32),
                sampled_log_probabilities: Vec::new(),
                advantages: Vec::new(),
                reference_log_probability: 0.0,
            };
            cut.push((Vec::new(), example));
        }
    }
    let mut data = divide(cut, &asked, share, seed)?;
    let learned = asked.iter().filter(|one| one.part == Part::Learn);
    let taught: BTreeSet<&Option<String>> = learned.map(|one| &one.label).collect();
    if let Some(untaught) = asked.iter().find(|one| !taught.contains(&one.label)) {
        return Err(Error::Invalid(format!(
            "line {}: the label {:?} is only in the part for tests, so that nothing teaches it",
            untaught.line,
            untaught.label.as_deref().unwrap_or_default()
        )));
    }
    data.classes = classes;
    Ok(data)
}

fn prompts_of(part: &[Asked]) -> Vec<Prompt> {
    part.iter().map(|asked| asked.prompt.clone()).collect()
}

/// What a record asks to be learned: of a conversation every answer, each after all before it.
fn asked_of(numbered: Numbered) -> Vec<Asked> {
    let Numbered { line, part, record } = numbered;
    let one = |prompt, answer, label| {
        vec![Asked {
            line,
            part,
            prompt: Prompt::Text(prompt),
            answer,
            label,
        }]
    };
    match record {
        Record::Completion { prompt, completion } => one(prompt, completion, None),
        Record::Labelled { text, label } => {
            one(format!("{text}\nLabel:"), format!(" {label}"), Some(label))
        }
        Record::Text(text) => one(String::new(), text, None),
        Record::Chat(turns) => {
            let answers = turns.iter().enumerate().skip(1);
            let answers = answers.filter(|(_, (role, _))| role == "assistant");
            let asked = answers.map(|(place, (_, answer))| Asked {
                line,
                part,
                prompt: Prompt::Chat(turns[..place].iter().map(message).collect()),
                answer: answer.clone(),
                label: None,
            });
            asked.collect()
        }
    }
}

fn message((role, content): &(String, String)) -> Message {
    Message {
        role: role.clone(),
        content: content.clone(),
    }
}

/// Divides what is asked into parts that one call may carry.
fn parts(asked: &[Asked]) -> Vec<&[Asked]> {
    let mut all = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, one) in asked.iter().enumerate() {
        let own = one.answer.len()
            + match &one.prompt {
                Prompt::Text(text) => text.len(),
                Prompt::Chat(turns) => turns.iter().map(|t| t.role.len() + t.content.len()).sum(),
                Prompt::Tokens(_) => 0,
            };
        if place > start && (place - start == TEXTS || bytes + own > BYTES) {
            all.push(&asked[start..place]);
            (start, bytes) = (place, 0);
        }
        bytes += own;
    }
    all.push(&asked[start..]);
    all
}

/// The prompt's tokens, which count nothing, and the answer's with the token that ends it.
fn example(
    line: usize,
    prompt: Vec<u32>,
    answer: &[u32],
    info: &TrainerInfo,
) -> Result<Example, Error> {
    let before = prompt.len();
    let mut tokens = prompt;
    tokens.extend_from_slice(answer);
    tokens.extend(info.ends.first());
    if tokens.len() > info.context as usize {
        return Err(Error::Invalid(format!(
            "line {line} has {} tokens and {} can look at {} together; shorten it, or divide it \
             into several lines",
            tokens.len(),
            info.base_name,
            info.context
        )));
    }
    let weights: Vec<f32> = (0..tokens.len())
        .map(|place| if place < before { 0.0 } else { 1.0 })
        .collect();
    if !weights.iter().skip(1).any(|weight| *weight > 0.0) {
        return Err(Error::Invalid(format!(
            "line {line} has no token that could be learned"
        )));
    }
    Ok(Example {
        tokens,
        weights,
        label: None,
        sampled_log_probabilities: Vec::new(),
        advantages: Vec::new(),
        reference_log_probability: 0.0,
    })
}

/// Holds a share out. A label that only the held-out part has would ask for what nobody taught, so
/// such examples are learned from instead.
fn divide(
    cut: Vec<(Vec<u32>, Example)>,
    asked: &[Asked],
    share: f32,
    seed: u64,
) -> Result<Data, Error> {
    let is_test = |place: usize| asked[place].part == Part::Test;
    let count = (0..cut.len()).filter(|place| !is_test(*place)).count();
    if count == 0 {
        return Err(Error::Invalid(
            "all lines are of the part for tests, and there is nothing to learn from".to_owned(),
        ));
    }
    let mut held = match share > 0.0 {
        true if count < 2 => {
            return Err(Error::Invalid(
                "there is one example, and at least two are needed: one to learn from and one to \
                 hold out (held-out=0 holds none out)"
                    .to_owned(),
            ));
        }
        true => ((f64::from(share) * count as f64).round() as usize).clamp(1, count - 1),
        false => 0,
    };
    let mut order = shuffled(cut.len(), seed, 0);
    order.retain(|place| !is_test(*place));
    let mut is_held = vec![false; cut.len()];
    for place in &order {
        if held == 0 {
            break;
        }
        let label = asked[*place].label.as_deref();
        let taught = |other: &usize| {
            *other != *place && !is_held[*other] && asked[*other].label.as_deref() == label
        };
        if label.is_none() || order.iter().any(taught) {
            is_held[*place] = true;
            held -= 1;
        }
    }
    let mut data = Data::default();
    for (place, ((prompt, example), is_held)) in cut.into_iter().zip(is_held).enumerate() {
        match is_held {
            _ if is_test(place) => data.test.push(example),
            true => {
                data.held_out.push(example);
                data.prompts.push(prompt);
            }
            false => data.training.push(example),
        }
    }
    Ok(data)
}

/// What the loss of these examples is divided by, to be the mean over the tokens that count, or
/// over texts where each has a class.
pub fn counted<'a>(examples: impl IntoIterator<Item = &'a Example>) -> f32 {
    let of = |example: &Example| match example.label {
        Some(_) => 1.0,
        None => example.weights.iter().skip(1).sum(),
    };
    examples.into_iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(labels: &[&str]) -> Vec<Asked> {
        let of = |(line, label): (usize, &&str)| {
            let record = Record::Labelled {
                text: "t".to_owned(),
                label: (*label).to_owned(),
            };
            asked_of(Numbered {
                line,
                part: Part::Learn,
                record,
            })
        };
        labels.iter().enumerate().flat_map(of).collect()
    }

    fn info(context: u32) -> TrainerInfo {
        TrainerInfo {
            base_name: "base".to_owned(),
            base: String::new(),
            context,
            vocabulary: 10,
            has_chat_template: false,
            ends: vec![9],
            parameters: 0,
            steps: 0,
        }
    }

    fn cut(count: usize) -> Vec<(Vec<u32>, Example)> {
        let one = |n: usize| {
            let made = example(n, vec![n as u32], &[1], &info(8));
            (
                vec![n as u32],
                made.unwrap_or_else(|e| unreachable!("{e:?}")),
            )
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn prompts_count_nothing_and_an_end_is_learned() {
        let made = example(1, vec![1, 2], &[3, 4], &info(8)).ok();
        let made = made.map(|made| (made.tokens, made.weights));
        assert_eq!(
            made,
            Some((vec![1, 2, 3, 4, 9], vec![0.0, 0.0, 1.0, 1.0, 1.0]))
        );
        let long = example(7, vec![1; 8], &[3], &info(8));
        assert!(
            matches!(long, Err(Error::Invalid(text)) if text.starts_with("line 7 has 10 tokens"))
        );
    }

    #[test]
    fn every_answer_of_a_conversation_is_learned_after_what_was_said_before() {
        let turn = |role: &str| (role.to_owned(), role.to_owned());
        let turns = ["user", "assistant", "user", "assistant"].map(turn);
        let asked = asked_of(Numbered {
            line: 1,
            part: Part::Learn,
            record: Record::Chat(turns.to_vec()),
        });
        let lengths = asked.iter().map(|asked| match &asked.prompt {
            Prompt::Chat(turns) => turns.len(),
            _ => 0,
        });
        assert_eq!(lengths.collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn what_is_for_tests_is_neither_learned_nor_held_out() {
        let mut asked = labelled(&["a", "b", "a", "b", "a", "b"]);
        for test in [1, 2] {
            asked[test].part = Part::Test;
        }
        for seed in 0..20 {
            let Ok(data) = divide(cut(6), &asked, 0.5, seed) else {
                unreachable!("six can be divided")
            };
            let tests: Vec<u32> = data.test.iter().map(|e| e.tokens[0]).collect();
            assert_eq!(tests, [1, 2]);
            assert_eq!((data.training.len(), data.held_out.len()), (2, 2));
        }
        for one in &mut asked {
            one.part = Part::Test;
        }
        assert!(divide(cut(6), &asked, 0.5, 0).is_err());
    }

    #[test]
    fn classes_are_the_labels_in_order() {
        let of = |lines: &str| match crate::data::parse(lines.as_bytes()) {
            Ok(records) => classes(&records),
            Err(error) => Err(error),
        };
        let labelled = |label: &str| format!("{{\"text\": \"t\", \"label\": \"{label}\"}}\n");
        let lines = [labelled("b"), labelled("a"), labelled("b")].concat();
        assert_eq!(of(&lines), Ok(vec!["a".to_owned(), "b".to_owned()]));
        let one = of(&labelled("b"));
        assert!(
            matches!(&one, Err(text) if text.contains("at least two")),
            "{one:?}"
        );
        let other = of(&format!("{lines}{{\"text\": \"t\"}}"));
        assert!(
            matches!(&other, Err(text) if text.starts_with("line 4")),
            "{other:?}"
        );
    }

    #[test]
    fn no_label_is_held_out_that_nobody_teaches() {
        let asked = labelled(&["a", "b", "a", "b", "c", "a"]);
        for seed in 0..50 {
            let Ok(data) = divide(cut(6), &asked, 0.9, seed) else {
                unreachable!("six can be divided")
            };
            let taught: Vec<u32> = data.training.iter().map(|e| e.tokens[0]).collect();
            assert!(taught.contains(&4), "the only c is learned from");
            for example in &data.held_out {
                let label = &asked[example.tokens[0] as usize].label;
                assert!(taught.iter().any(|n| asked[*n as usize].label == *label));
            }
            assert_eq!(data.held_out.len(), 3);
        }
        assert!(divide(cut(1), &labelled(&["a"]), 0.1, 0).is_err());
        let all = divide(cut(1), &labelled(&["a"]), 0.0, 0);
        assert!(matches!(all, Ok(data) if data.training.len() == 1));
    }
}
