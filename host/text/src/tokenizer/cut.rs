//! Cutting a text by a regular expression that came with a model.
//!
//! Such expressions look ahead, so they are matched by backtracking, and a hostile one could take
//! for ever. A match may take only so many steps, and a text only so long. Expressions that would
//! grow when they are compiled are refused.

use std::time::{Duration, Instant};

use tokenizers::pattern::Pattern;
use tokenizers::{Offsets, PreTokenizedString, SplitDelimiterBehavior};

/// Longer than any expression of a model that is known.
const LONGEST: usize = 4096;
/// What the numbers in counted repetitions may come to when multiplied.
const REPETITIONS: u64 = 1000;
/// Steps back in one match. A run of white space needs one for each of its letters.
const STEPS: usize = 1 << 20;
/// One text, cut by honest expressions, takes less than a second.
const TIME: Duration = Duration::from_secs(10);

/// An expression and what becomes of what it matches.
pub(super) struct Cut {
    regex: fancy_regex::Regex,
    behavior: SplitDelimiterBehavior,
    /// What is between matches is what counts.
    invert: bool,
}

impl Cut {
    /// # Errors
    /// When the expression is none, or too large.
    pub fn new(
        expression: &str,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    ) -> Result<Self, String> {
        check(expression)?;
        let regex = fancy_regex::RegexBuilder::new(expression)
            .backtrack_limit(STEPS)
            .delegate_size_limit(4 << 20)
            .build()
            .map_err(|error| format!("it cuts texts by no regular expression: {error}"))?;
        Ok(Self {
            regex,
            behavior,
            invert,
        })
    }

    /// Cuts each part of `text` that has no tokens yet.
    pub fn apply(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        let search = Search {
            cut: self,
            until: Instant::now() + TIME,
        };
        text.split(|_, part| part.split(search, self.behavior))
    }
}

/// Checks that an expression stays small when it is compiled.
///
/// # Errors
/// When it does not.
pub(super) fn check(expression: &str) -> Result<(), String> {
    if expression.len() > LONGEST {
        return Err(format!(
            "it has a regular expression of {} bytes; at most {LONGEST} are taken",
            expression.len()
        ));
    }
    let mut product = 1_u64;
    for repetition in expression.split('{').skip(1) {
        let inside = repetition.split('}').next().unwrap_or_default();
        // `\p{L}` and the like have no numbers.
        let numbers = inside.split(',').map_while(|number| {
            let number = number.trim();
            match number.is_empty() {
                true => Some(1),
                false => number.parse::<u64>().ok(),
            }
        });
        product = product.saturating_mul(numbers.max().unwrap_or(1).max(1));
    }
    if product > REPETITIONS {
        return Err(format!(
            "the repetitions in a regular expression come to {product}; at most {REPETITIONS} \
             are taken"
        ));
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Search<'a> {
    cut: &'a Cut,
    until: Instant,
}

impl Pattern for Search<'_> {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let invert = self.cut.invert;
        let mut parts = Vec::new();
        let mut done = 0;
        for found in self.cut.regex.find_iter(inside) {
            let found = found?;
            if Instant::now() > self.until {
                return Err("its regular expression takes too long on this text".into());
            }
            if done < found.start() {
                parts.push(((done, found.start()), invert));
            }
            parts.push(((found.start(), found.end()), !invert));
            done = found.end();
        }
        if done < inside.len() {
            parts.push(((done, inside.len()), invert));
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_that_would_grow_are_refused() {
        for honest in [r"\p{N}{1,3}| ?\p{L}+", "[0-9][0-9][0-9]", r"a{2,}", "{"] {
            assert_eq!(check(honest), Ok(()));
        }
        assert!(check("((a{100}){100}){100}").is_err());
        assert!(check("a{99999999999999999999999}").is_ok(), "no number");
        assert!(check(&"a".repeat(5000)).is_err());
    }

    #[test]
    fn an_expression_that_never_ends_is_an_error() {
        let cut = Cut::new(
            "(?:a|a|b(?!c))*d(?!x)",
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .unwrap();
        let mut text = PreTokenizedString::from("a".repeat(64));
        assert!(cut.apply(&mut text).is_err());
    }
}
