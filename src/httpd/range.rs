//! Range and conditional requests (RFC 9110 sections 13 and 14) as pure functions.

use axum::http::{HeaderMap, HeaderValue, header};
use std::ops::Range;

/// Most ranges that one request may name; beyond, it gets the whole file (RFC 9110 section 14.2
/// lets a server ignore ranges that look like an attack).
pub const MAX_RANGES: usize = 16;

/// What a request wants of a representation of some size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// 200.
    Whole,
    /// 206: these bytes, in this order. One or more, none empty.
    Parts(Vec<Range<u64>>),
    /// 416.
    Unsatisfiable,
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Evaluates the conditions, in the order of RFC 9110 section 13.2.2, then Range. `etag` with its
/// quotes; ranges count for GET only.
pub fn wanted(headers: &HeaderMap, etag: &str, size: u64, is_get: bool) -> Wanted {
    let all = |name| headers.get_all(name).iter().filter_map(|v: &HeaderValue| v.to_str().ok());
    if headers.contains_key(header::IF_MATCH) && !all(header::IF_MATCH).any(|v| lists(v, etag, false)) {
        return Wanted::PreconditionFailed;
    }
    if all(header::IF_NONE_MATCH).any(|v| lists(v, etag, true)) {
        return Wanted::NotModified;
    }
    // A date never matches: immutable bytes have no useful one, and none is sent.
    let same = headers.get(header::IF_RANGE).is_none_or(|v| v.as_bytes() == etag.as_bytes());
    match headers.get(header::RANGE).and_then(|v| v.to_str().ok()) {
        Some(text) if is_get && same => ranges(text, size),
        _ => Wanted::Whole,
    }
}

/// Does a list of entity tags contain `etag`? `W/` in front is passed over where `weak`.
fn lists(list: &str, etag: &str, weak: bool) -> bool {
    list.split(',').map(str::trim).any(|tag| {
        let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
        tag == "*" || tag == etag
    })
}

/// A Range header. What is not understood is ignored, as the RFC has it.
fn ranges(text: &str, size: u64) -> Wanted {
    let Some((unit, list)) = text.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let (mut parts, mut named) = (Vec::new(), 0);
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        named += 1;
        let Some(range) = item.split_once('-').and_then(|(first, last)| range(first, last, size)) else {
            return Wanted::Whole;
        };
        if range.start < range.end {
            parts.push(range);
        }
        if named > MAX_RANGES {
            return Wanted::Whole;
        }
    }
    let total = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.end - part.start));
    match (named, parts.is_empty()) {
        (0, _) => Wanted::Whole,
        (_, true) => Wanted::Unsatisfiable,
        // Overlapping: the whole file is less, and says as much.
        _ if total > size => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
}

/// One range, cut to `size`; empty if it lies beyond. `None` if it is no range.
fn range(first: &str, last: &str, size: u64) -> Option<Range<u64>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // Too many digits for 64 bits is beyond every file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", suffix) => Some(size.saturating_sub(number(suffix)?)..size),
        (first, "") => Some(number(first)?.min(size)..size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    #![allow(clippy::single_range_in_vec_init, reason = "a list of one part is meant")]
    use super::*;
    use proptest::prelude::*;

    const ETAG: &str = "\"abc\"";

    fn ask(fields: &[(&'static str, &str)]) -> Wanted {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        wanted(&headers, ETAG, 1000, true)
    }

    #[test]
    fn single_and_multiple_ranges_are_cut_to_the_file() {
        for (range, parts) in [
            ("bytes=0-0", vec![0..1]),
            ("bytes=500-", vec![500..1000]),
            ("bytes=-1", vec![999..1000]),
            ("bytes=-5000", vec![0..1000]),
            ("Bytes = 990-99999999999999999999999", vec![990..1000]),
            ("bytes=0-9, 20-29,,5000-", vec![0..10, 20..30]),
            ("bytes=900-909,0-9", vec![900..910, 0..10]),
        ] {
            assert_eq!(ask(&[("range", range)]), Wanted::Parts(parts), "{range}");
        }
        for range in ["bytes=1000-", "bytes=-0", "bytes=2000-3000,1000-"] {
            assert_eq!(ask(&[("range", range)]), Wanted::Unsatisfiable, "{range}");
        }
    }

    #[test]
    fn nonsense_overlaps_and_floods_get_the_whole_file() {
        let flood = format!("bytes={}", vec!["0-0"; 17].join(","));
        for range in
            ["bytes=5-4", "bytes=a-", "bytes=", "lines=0-1", "0-1", "bytes=+1-2", "bytes=0-,0-", &flood]
        {
            assert_eq!(ask(&[("range", range)]), Wanted::Whole, "{range}");
        }
        let headers = [("range".parse().unwrap(), "bytes=0-0".parse().unwrap())].into_iter().collect();
        assert_eq!(wanted(&headers, ETAG, 1000, false), Wanted::Whole, "HEAD has no ranges");
    }

    #[test]
    fn conditions_are_evaluated_before_the_range() {
        let range = ("range", "bytes=0-0");
        let part = Wanted::Parts(vec![0..1]);
        assert_eq!(ask(&[range, ("if-none-match", "\"x\", W/\"abc\"")]), Wanted::NotModified);
        assert_eq!(ask(&[("if-none-match", "*")]), Wanted::NotModified);
        assert_eq!(ask(&[range, ("if-none-match", "\"x\"")]), part);
        assert_eq!(ask(&[range, ("if-match", "\"x\"")]), Wanted::PreconditionFailed);
        assert_eq!(ask(&[range, ("if-match", "W/\"abc\"")]), Wanted::PreconditionFailed);
        assert_eq!(ask(&[range, ("if-match", "\"x\", \"abc\"")]), part);
        assert_eq!(ask(&[range, ("if-range", ETAG)]), part);
        for other in ["\"x\"", "W/\"abc\"", "Sat, 29 Oct 1994 19:43:31 GMT"] {
            assert_eq!(ask(&[range, ("if-range", other)]), Wanted::Whole, "{other}");
        }
    }

    proptest! {
        #[test]
        fn parts_are_never_more_than_the_file(text in "bytes=[0-9, -]{0,60}", size in 0u64..2000) {
            match ranges(&text, size) {
                Wanted::Parts(parts) => {
                    prop_assert!(!parts.is_empty() && parts.len() <= MAX_RANGES);
                    prop_assert!(parts.iter().all(|p| p.start < p.end && p.end <= size));
                    prop_assert!(parts.iter().map(|p| p.end - p.start).sum::<u64>() <= size);
                }
                Wanted::Whole | Wanted::Unsatisfiable => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
