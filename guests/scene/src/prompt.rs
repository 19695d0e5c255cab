//! The prompt: a scene as text for a model, in a form that hardly changes from turn to turn.
//!
//! What changes least comes first (rules, character, place), so that a node which keeps the keys
//! and values of what prompts have in common computes only the end. A visitor's words are data:
//! they stand in quotes, bounded, on one line, and cannot begin a line or end the quotes.

use std::fmt::Write;

use crate::reply::Action;
use crate::scene::Scene;

/// Bytes of a visitor's words in a prompt at most.
pub const HEARD_BYTES: usize = 120;

/// The first line of every prompt.
const RULES: &str = "Say what is true, then do one thing.";

/// The prompt of a scene. The reply goes on right after its end.
pub fn prompt(scene: &Scene) -> String {
    let mut text = format!("{RULES}\n");
    let speaker = &scene.speaker;
    let _ = writeln!(
        text,
        "{}, {}, {}",
        speaker.name, speaker.role, speaker.voice
    );
    let _ = write!(
        text,
        "at {}, {}, {}",
        scene.place, scene.time, scene.weather
    );
    if !scene.present.is_empty() {
        let _ = write!(text, ", with {}", scene.present.join(", "));
    }
    let _ = writeln!(text, "\n{}, {}", speaker.mood.name(), speaker.regard.name());
    let notes: Vec<String> = scene.claims.iter().filter_map(crate::Claim::note).collect();
    let _ = writeln!(text, "knows: {}", notes.join("; "));
    let actions: Vec<String> = scene.actions.iter().map(Action::to_string).collect();
    let _ = writeln!(text, "may: {}", actions.join("; "));
    let _ = write!(
        text,
        "you: \"{}\" ({}",
        quoted(&scene.heard.words),
        scene.heard.intent.name()
    );
    for topic in &scene.heard.topics {
        let _ = write!(text, " {topic}");
    }
    let _ = write!(text, ")\n{}:", speaker.name);
    text
}

/// A visitor's words, fit to stand between quotes: one line of at most [`HEARD_BYTES`] bytes,
/// without quotes and control characters.
pub fn quoted(words: &str) -> String {
    let mut text = String::new();
    let mut space = true;
    for letter in words.chars() {
        let letter = match letter {
            '"' | '\u{201c}' | '\u{201d}' | '\u{201e}' => '\'',
            letter if letter.is_whitespace() || letter.is_control() => ' ',
            letter if invisible(letter) => continue,
            letter => letter,
        };
        if letter == ' ' && space {
            continue;
        }
        if text.len() + letter.len_utf8() > HEARD_BYTES {
            break;
        }
        space = letter == ' ';
        text.push(letter);
    }
    text.truncate(text.trim_end().len());
    text
}

/// Letters that are not seen but change how others are read: directions, joiners, tags.
fn invisible(letter: char) -> bool {
    matches!(letter,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}
