//! Patterns of modules' names: Python's regular expressions, as PEFT reads them.
//!
//! They come from strangers' files, and are matched by an engine that takes time in proportion to the
//! name whatever the pattern. What it does not know, and what would become too large a program, is
//! refused.

use regex::bytes::{Regex, RegexBuilder};

/// The largest program that a pattern may become, in bytes, unless a caller wants less.
pub const PATTERN_BYTES: usize = 1 << 20;

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(regex::Error);

/// A pattern of modules' names. Classes and case are those of Unicode, as Python's are.
#[derive(Debug)]
pub struct ModulePattern(Regex);

impl ModulePattern {
    /// One that a whole name has to match, as `re.fullmatch` does: that of `target_modules` and
    /// `exclude_modules`. `most` is how many bytes its program may have.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn whole(pattern: &str, most: usize) -> Result<Self, PatternError> {
        Self::new(pattern, "^", most)
    }

    /// One that a whole name has to match, or what of it comes after a dot: that of `rank_pattern` and
    /// `alpha_pattern`.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn after_a_dot(pattern: &str, most: usize) -> Result<Self, PatternError> {
        // Bytes, of which a program needs one state and not thirty: a name is text whatever comes here.
        Self::new(pattern, r"^(?:(?-u:.)*\.)?", most)
    }

    fn new(pattern: &str, before: &str, most: usize) -> Result<Self, PatternError> {
        let build = |pattern: &str| RegexBuilder::new(pattern).size_limit(most).build();
        // What is no pattern by itself could close the group that it is put into.
        build(pattern).map_err(PatternError)?;
        let whole = build(&format!("{before}(?:{pattern})$"));
        whole.map(Self).map_err(PatternError)
    }

    /// Whether a module's name is one of those that it is for.
    pub fn matches(&self, module: &str) -> bool {
        self.0.is_match(module.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pattern: &str) -> Result<ModulePattern, PatternError> {
        ModulePattern::whole(pattern, PATTERN_BYTES)
    }

    /// The answers are those of Python's `re.fullmatch`.
    #[test]
    fn a_whole_name_is_matched_as_python_does() {
        for (pattern, module, matches) in [
            (r".*\.q_proj", "layers.0.q_proj", true),
            (r"q_proj", "layers.0.q_proj", false),
            (r"layers.0", "layers.0.q_proj", false),
            (r"a|b", "ab", false),
            (r"a|ab", "ab", true),
            (r"\w+", "проекция", true),
            (r"[а-я]+", "проекция", true),
            (r"(?i)ПРОЕКЦИЯ", "проекция", true),
            (r"(?i)ſelf", "SELF", true),
            (r"layer\d", "layer٣", true),
            (r"layer[0-9]", "layer٣", false),
            (r"h.t", "höt", true),
            (r"h..t", "höt", false),
            (r"\bhö\b.*", "hö.t", true),
            (r"hö\b.*", "höt", false),
        ] {
            let found = whole(pattern).unwrap().matches(module);
            assert_eq!(found, matches, "{pattern} and {module}");
        }
    }

    #[test]
    fn what_comes_after_a_dot_is_matched_whole() {
        for (pattern, module, matches) in [
            ("q_proj", "layers.0.q_proj", true),
            ("q_proj", "q_proj", true),
            ("q_proj", "layers.0.xq_proj", false),
            ("0.q_proj", "слой.0.q_proj", true),
            (r"\w+", "слой.проекция", true),
            ("q", "layers.0.q_proj", false),
        ] {
            let pattern_of = ModulePattern::after_a_dot(pattern, PATTERN_BYTES).unwrap();
            assert_eq!(
                pattern_of.matches(module),
                matches,
                "{pattern} and {module}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_large_is_refused() {
        for pattern in ["(", "a)|(?:b", "(?=q)q_proj", r"(q)\1", r"\w{999}"] {
            assert!(whole(pattern).is_err(), "{pattern}");
        }
        let small = ModulePattern::whole("(x{99}){9}", 1 << 10);
        assert!(small.is_err(), "the bound is the caller's");
    }
}
