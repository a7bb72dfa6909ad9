//! When a rollout may move machines: `22:00-04:00`, `mon-fri 22:00-04:00`, `sat,sun 00:00-24:00`. In UTC.

use crate::model::{Millis, Window};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const EVERY_DAY: u8 = 0b111_1111;
const MINUTE: Millis = 60_000;
const DAY: Millis = 24 * 60 * MINUTE;

/// Reads a window.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_window(text: &str) -> Result<Window, String> {
    let wrong = |what: &str| {
        let text: String = text.chars().take(40).collect();
        format!(
            "`{text}` is no maintenance window: {what}. Write as in `22:00-04:00` or `mon-fri 22:00-04:00`, in UTC"
        )
    };
    let lower = text.trim().to_ascii_lowercase();
    let (days, times) = match lower.split_once(' ') {
        Some((days, times)) => (
            parse_days(days).ok_or_else(|| wrong("its days are not of mon, tue, wed, thu, fri, sat, sun"))?,
            times,
        ),
        None => (EVERY_DAY, lower.as_str()),
    };
    let (from, until) =
        times.trim().split_once('-').ok_or_else(|| wrong("it has no `-` between two times"))?;
    let time =
        |t: &str| parse_time(t.trim()).ok_or_else(|| wrong("a time is hours and minutes, 00:00 to 24:00"));
    let (from, until) = (time(from)?, time(until)?);
    if from == until || from == 24 * 60 {
        return Err(wrong("it has no length"));
    }
    Ok(Window { days, from, until })
}

fn parse_days(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|d| *d == name);
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        // `fri-mon` goes over the end of the week.
        let length = (last + 7 - first) % 7;
        for n in first..=first + length {
            days |= 1 << (n % 7);
        }
    }
    Some(days)
}

fn parse_time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |t: &str| (t.len() == 2).then(|| t.parse::<u16>().ok()).flatten();
    let minutes = two(hours)? * 60 + two(minutes).filter(|m| *m < 60)?;
    (minutes <= 24 * 60).then_some(minutes)
}

/// Whether a moment is in the window.
pub fn is_open(window: Window, now: Millis) -> bool {
    let minute = Millis::from(u16::try_from(now.rem_euclid(DAY) / MINUTE).unwrap_or(0));
    // 1970-01-01 was a Thursday.
    let today = (now.div_euclid(DAY) + 3).rem_euclid(7);
    let on = |day: Millis| window.days & (1 << day.rem_euclid(7)) != 0;
    let (from, until) = (Millis::from(window.from), Millis::from(window.until));
    match from < until {
        true => on(today) && (from..until).contains(&minute),
        false => (on(today) && minute >= from) || (on(today - 1) && minute < until),
    }
}

/// As [`parse_window`] reads it.
pub fn window_words(window: Window) -> String {
    let time = |m: u16| format!("{:02}:{:02}", m / 60, m % 60);
    let times = format!("{}-{}", time(window.from), time(window.until));
    if window.days == EVERY_DAY {
        return times;
    }
    let days: Vec<&str> =
        DAYS.iter().enumerate().filter(|(n, _)| window.days & (1 << n) != 0).map(|(_, d)| *d).collect();
    format!("{} {times}", days.join(","))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    /// Of the week that began on Monday, 2026-11-23.
    fn at(day: i64, hours: i64, minutes: i64) -> Millis {
        1_795_392_000_000 + day * DAY + (hours * 60 + minutes) * MINUTE
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let w = parse_window("Mon-Fri 22:00-04:00").unwrap();
        let open = [(0, 22, 0), (1, 3, 59), (4, 23, 0), (5, 3, 0)];
        let shut = [(0, 3, 0), (0, 21, 59), (1, 4, 0), (5, 22, 0), (6, 1, 0)];
        assert!(open.iter().all(|(d, h, m)| is_open(w, at(*d, *h, *m))));
        assert!(!shut.iter().any(|(d, h, m)| is_open(w, at(*d, *h, *m))));
        let whole = parse_window("sat,sun 00:00-24:00").unwrap();
        assert!(is_open(whole, at(5, 0, 0)) && is_open(whole, at(6, 23, 59)) && !is_open(whole, at(7, 0, 0)));
    }

    #[test]
    fn what_is_shown_reads_back_and_what_is_wrong_is_said() {
        for text in ["22:00-04:00", "sat,sun 00:00-24:00", "mon,fri,sat,sun 01:30-02:00"] {
            assert_eq!(window_words(parse_window(text).unwrap()), text);
        }
        assert_eq!(window_words(parse_window("fri-mon 01:30-02:00").unwrap()), "mon,fri,sat,sun 01:30-02:00");
        for (text, what) in [
            ("", "no `-`"),
            ("22-4", "a time is"),
            ("25:00-26:00", "a time is"),
            ("10:60-11:00", "a time is"),
            ("10:00-10:00", "no length"),
            ("moon 10:00-11:00", "its days"),
            ("a-b-c 1-2-3", "its days"),
        ] {
            let e = parse_window(text).unwrap_err();
            assert!(e.contains(what), "{text}: {e}");
        }
    }
}
