//! What hurried fingers do to a text.

use rand::Rng;

/// The text with about one mistake in every `letters_per_typo` letters: a letter left out,
/// doubled, or exchanged with its neighbour. Digits and the ends of words are spared.
pub fn typos(text: &str, letters_per_typo: u32, rng: &mut impl Rng) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut result = String::with_capacity(text.len());
    let mut i = 0;
    while i < letters.len() {
        let inside = i > 0
            && letters[i - 1].is_alphabetic()
            && letters[i].is_alphabetic()
            && letters.get(i + 1).is_some_and(|next| next.is_alphabetic());
        if inside && rng.random_ratio(1, letters_per_typo) {
            match rng.random_range(0..3) {
                0 => {}
                1 => result.extend([letters[i], letters[i]]),
                _ => {
                    result.extend([letters[i + 1], letters[i]]);
                    i += 1;
                }
            }
        } else {
            result.push(letters[i]);
        }
        i += 1;
    }
    result
}

/// The text as somebody writes it who cares for neither capitals nor full stops.
pub fn careless(text: &str) -> String {
    text.to_lowercase()
        .replace([',', '\''], "")
        .replace(". ", " ")
        .trim_end_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn typos_touch_some_words_and_no_digits() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let text = "something happened to order 123456 yesterday evening ".repeat(20);
        let noisy = typos(&text, 20, &mut rng);
        assert_ne!(noisy, text);
        assert_eq!(noisy.matches("123456").count(), 20);
        let changed = noisy.split(' ').filter(|word| !text.contains(word)).count();
        assert!((10..60).contains(&changed), "{changed} words changed");
    }

    #[test]
    fn careless_keeps_the_words() {
        assert_eq!(
            careless("Hi, I can't log in. Help."),
            "hi i cant log in help"
        );
    }
}
