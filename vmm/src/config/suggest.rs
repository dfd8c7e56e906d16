//! What was probably meant.

/// The word of these that is nearest to what was written, if one is near.
pub(super) fn nearest<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-', ' '], "");
    let written = plain(&written.chars().take(64).collect::<String>());
    let near = |word: &'a str| (distance(&written, &plain(word)), word);
    let best = words.into_iter().map(near).min_by_key(|(distance, _)| *distance);
    // A third of the letters may be wrong, and always one.
    best.filter(|(distance, word)| *distance <= word.len().div_ceil(3)).map(|(_, word)| word)
}

/// `; did you mean X?`, or nothing.
pub(super) fn hint<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, words).map_or_else(String::new, |word| format!("; did you mean {word}?"))
}

/// How many letters have to be put in, taken out or replaced to make one of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        for (place, wanted) in row.iter_mut().zip(std::iter::once(None).chain(other.iter().map(Some))) {
            let Some(wanted) = wanted else {
                *place = at + 1;
                continue;
            };
            let replaced = diagonal + usize::from(letter != *wanted);
            diagonal = *place;
            left = replaced.min(*place + 1).min(left + 1);
            *place = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["path", "format", "readonly", "serial", "cache"];
        assert_eq!(nearest("readonyl", words), Some("readonly"));
        assert_eq!(nearest("read-only", words), Some("readonly"));
        assert_eq!(nearest("FORMAT", words), Some("format"));
        assert_eq!(nearest("file", words), None);
        assert_eq!(hint("chache", words), "; did you mean cache?");
        assert_eq!(hint("xyzzy", words), "");
    }

    /// The definition, as it stands in textbooks.
    fn naive(one: &[char], other: &[char]) -> usize {
        match (one, other) {
            ([], rest) | (rest, []) => rest.len(),
            ([a, one_rest @ ..], [b, other_rest @ ..]) if a == b => naive(one_rest, other_rest),
            ([_, one_rest @ ..], [_, other_rest @ ..]) => {
                1 + naive(one_rest, other_rest).min(naive(one_rest, other)).min(naive(one, other_rest))
            }
        }
    }

    proptest! {
        #[test]
        fn the_distance_is_the_textbooks(one in "[abc]{0,6}", other in "[abc]{0,6}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(distance(&one, &other), naive(&chars(&one), &chars(&other)));
        }
    }
}
