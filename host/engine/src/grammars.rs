//! Constraints that were compiled for a model, kept because most come again and again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use skep_text::{Constraint, Grammar, GrammarError, GrammarVocabulary, TextTokenizer};

use crate::error::EngineError;

/// Grammars that are kept: those that were asked for last.
const KEPT: usize = 64;

/// The grammars of one model.
#[derive(Default)]
pub struct Grammars {
    /// What each token writes; made when the first constraint comes.
    vocabulary: OnceLock<Result<GrammarVocabulary, GrammarError>>,
    /// The last that was asked for comes last.
    kept: Mutex<VecDeque<(Constraint, Grammar)>>,
}

impl Grammars {
    /// A constraint, compiled for this tokenizer, which must be the same in all calls.
    ///
    /// # Errors
    /// When the constraint is not valid or too complex, or the tokenizer's vocabulary unsound.
    pub fn get(
        &self,
        tokenizer: &TextTokenizer,
        constraint: &Constraint,
    ) -> Result<Grammar, EngineError> {
        let found = {
            let mut kept = self.kept();
            let place = kept.iter().position(|(known, _)| known == constraint);
            place.and_then(|place| {
                let found = kept.remove(place)?;
                kept.push_back(found.clone());
                Some(found.1)
            })
        };
        if let Some(grammar) = found {
            return Ok(grammar);
        }
        let vocabulary = self
            .vocabulary
            .get_or_init(|| GrammarVocabulary::new(tokenizer));
        // Nobody else waits while this one is compiled.
        let grammar = vocabulary
            .as_ref()
            .map_err(Clone::clone)?
            .compile(constraint)?;
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((constraint.clone(), grammar.clone()));
        Ok(grammar)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Constraint, Grammar)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
