//! The nearest of a few words, for "did you mean".

/// The word of `among` that takes the fewest edits to reach from `word`; `None` where none is near
/// enough to be a typing error (more than a third of the letters differ, and more than two).
pub fn nearest<'a>(word: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(2);
    among
        .into_iter()
        .map(|w| (distance(&word.to_lowercase(), &w.to_lowercase()), w))
        .filter(|(d, w)| *d <= limit && *d < w.chars().count())
        .min_by_key(|(d, _)| *d)
        .map(|(_, w)| w)
}

/// Edits (insert, delete, replace) from `a` to `b`, by Levenshtein's one-row table.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for ((j, cb), diagonal_and_above) in b.iter().enumerate().zip(row.windows(2)) {
            let (diagonal, above) = match diagonal_and_above {
                [d, a] => (*d, *a),
                _ => (j, j),
            };
            let left = next.last().copied().unwrap_or(0);
            next.push((diagonal + usize::from(ca != *cb)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typing_errors_and_nothing_far_off() {
        let keys = ["listen", "port", "router_advertisement"];
        assert_eq!(nearest("prot", keys), Some("port"));
        assert_eq!(nearest("Listen", keys), Some("listen"));
        assert_eq!(nearest("router_advertisment", keys), Some("router_advertisement"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!((distance("", "abc"), distance("web:2", "web:2")), (3, 0));
    }
}
