//! A text that was put together from parts: some written by a template, some by strangers.

use std::ops::Range;

/// Whether marks such as `<|im_start|>` in a text stand for their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarksInText {
    /// They do: the text comes from a template.
    Count,
    /// They are letters like any others: the text comes from a stranger. Marks that the
    /// vocabulary lists as ordinary text (`TokenKind::UserDefined`, or `"special": false` in
    /// `tokenizer.json`) count even so.
    AreText,
}

/// A text, and where in it marks count. A mark of which any byte lies outside such a place is
/// text, so nothing that a stranger writes can complete one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkedText {
    text: String,
    counts: Vec<Range<usize>>,
}

impl MarkedText {
    /// A text of one part.
    pub fn new(text: impl Into<String>, marks: MarksInText) -> Self {
        let text = text.into();
        let counts = match marks {
            MarksInText::Count if !text.is_empty() => std::iter::once(0..text.len()).collect(),
            _ => Vec::new(),
        };
        Self { text, counts }
    }

    /// Appends a part. Neighbouring parts in which marks count are one: a mark may span them.
    pub fn push(&mut self, part: &str, marks: MarksInText) {
        let start = self.text.len();
        self.text.push_str(part);
        let end = self.text.len();
        if marks == MarksInText::AreText || start == end {
            return;
        }
        match self.counts.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.counts.push(start..end),
        }
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where marks count, in bytes: in order, apart from each other, at the bounds of letters.
    pub fn counts(&self) -> &[Range<usize>] {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_which_marks_count_are_one() {
        let mut text = MarkedText::new("<a", MarksInText::Count);
        text.push(">", MarksInText::Count);
        text.push("<b>", MarksInText::AreText);
        text.push("", MarksInText::AreText);
        text.push("", MarksInText::Count);
        text.push("<c>", MarksInText::Count);
        assert_eq!(text.text(), "<a><b><c>");
        assert_eq!(text.counts(), [0..3, 6..9]);
        assert!(MarkedText::new("", MarksInText::Count).counts().is_empty());
        assert!(
            MarkedText::new("a", MarksInText::AreText)
                .counts()
                .is_empty()
        );
    }
}
