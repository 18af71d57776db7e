//! Finds the key that somebody meant.

/// The candidate most like `word`, and how many letters differ. Case, `_` and `-` do not count.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<(&'a str, usize)> {
    let word = letters(word);
    candidates
        .map(|candidate| (candidate, distance(&word, &letters(candidate))))
        .min_by_key(|(_, distance)| *distance)
}

fn letters(word: &str) -> Vec<char> {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Edit distance: insertions, deletions and replacements of one letter.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        let d = |a: &str, b: &str| distance(&letters(a), &letters(b));
        assert_eq!(d("", "abc"), 3);
        assert_eq!(d("kitten", "sitting"), 3);
        assert_eq!(d("RetryInterval", "retry_interval"), 0);
    }

    #[test]
    fn the_nearest_candidate_wins() {
        let keys = ["http_port", "grpc_port", "data"];
        assert_eq!(
            nearest("htpp_port", keys.into_iter()),
            Some(("http_port", 1))
        );
        assert_eq!(nearest("x", [].into_iter()), None);
    }
}
