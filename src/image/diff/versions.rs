//! Which of two versions is newer, by the rules of each package system.

use std::cmp::Ordering;

/// Debian's order (deb-version(7)): epoch, upstream version, revision.
pub fn dpkg(a: &str, b: &str) -> Ordering {
    fn split(version: &str) -> (u64, &str, &str) {
        let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch.parse().unwrap_or(0), upstream, revision)
    }
    let ((e, u, r), (f, v, s)) = (split(a), split(b));
    e.cmp(&f).then_with(|| dpkg_part(u, v)).then_with(|| dpkg_part(r, s))
}

/// Runs of other characters and of digits in turn; `~` sorts before the end, letters before the rest.
fn dpkg_part(mut a: &str, mut b: &str) -> Ordering {
    let weight = |c: Option<char>| match c {
        Some('~') => -1,
        Some(c) if c.is_ascii_alphabetic() => c as i64,
        Some(c) if !c.is_ascii_digit() => c as i64 + 256,
        _ => 0,
    };
    while !a.is_empty() || !b.is_empty() {
        let (x, y) = (take(&mut a, |c| !c.is_ascii_digit()), take(&mut b, |c| !c.is_ascii_digit()));
        let (mut x, mut y) = (x.chars(), y.chars());
        loop {
            let (c, d) = (x.next(), y.next());
            if c.is_none() && d.is_none() {
                break;
            }
            match weight(c).cmp(&weight(d)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        let digits = |c: char| c.is_ascii_digit();
        match number(take(&mut a, digits), take(&mut b, digits)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
    Ordering::Equal
}

/// rpm's order (`rpmvercmp`), of `[epoch:]version-release`.
pub fn rpm(a: &str, b: &str) -> Ordering {
    fn split(evr: &str) -> (u64, &str, &str) {
        let (epoch, rest) = evr.split_once(':').unwrap_or(("", evr));
        let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch.parse().unwrap_or(0), version, release)
    }
    let ((e, v, r), (f, w, s)) = (split(a), split(b));
    e.cmp(&f).then_with(|| rpm_part(v, w)).then_with(|| rpm_part(r, s))
}

/// Runs of digits or letters; `~` sorts before the end, `^` behind it but before anything else.
fn rpm_part(mut a: &str, mut b: &str) -> Ordering {
    let separator = |c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '^';
    loop {
        take(&mut a, separator);
        take(&mut b, separator);
        let next = |s: &str| s.chars().next();
        let unequal = match (next(a), next(b)) {
            (None, None) => return Ordering::Equal,
            (Some('~'), Some('~')) | (Some('^'), Some('^')) => {
                a = a.get(1..).unwrap_or("");
                b = b.get(1..).unwrap_or("");
                continue;
            }
            (Some('~'), _) | (None, _) if next(b) != Some('~') => Ordering::Less,
            (_, Some('~')) | (_, None) => Ordering::Greater,
            (Some('^'), _) => Ordering::Less,
            (_, Some('^')) => Ordering::Greater,
            (Some(c), Some(d)) => match (c.is_ascii_digit(), d.is_ascii_digit()) {
                (true, true) => {
                    number(take(&mut a, |c| c.is_ascii_digit()), take(&mut b, |c| c.is_ascii_digit()))
                }
                (false, false) => {
                    take(&mut a, |c| c.is_ascii_alphabetic()).cmp(take(&mut b, |c| c.is_ascii_alphabetic()))
                }
                (digits, _) => {
                    if digits {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    }
                }
            },
            (None, Some(_)) => Ordering::Less,
        };
        if unequal != Ordering::Equal {
            return unequal;
        }
    }
}

/// Alpine's order (apk-tools `version.c`): `1.2.3b_rc4-r5`.
pub fn apk(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (apk_parts(a).into_iter(), apk_parts(b).into_iter());
    loop {
        let (x, y) = (a.next(), b.next());
        let unequal = match (x, y) {
            (None, None) => return Ordering::Equal,
            (Some(x), Some(y)) if x.0 == y.0 => x.1.cmp(&y.1),
            // What goes on is newer, unless it says that it is a release to come.
            (Some(ApkPart(Class::Suffix, n)), _) if n < 0 => Ordering::Less,
            (_, Some(ApkPart(Class::Suffix, n))) if n < 0 => Ordering::Greater,
            (Some(x), Some(y)) => y.0.cmp(&x.0),
            (x, _) => {
                if x.is_some() {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
        };
        if unequal != Ordering::Equal {
            return unequal;
        }
    }
}

/// Of two parts of different class the first class here is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Zeros,
    Number,
    Letter,
    Suffix,
    SuffixNumber,
    Revision,
}

#[derive(Debug)]
struct ApkPart(Class, i128);

fn apk_parts(mut version: &str) -> Vec<ApkPart> {
    const BEFORE: [&str; 4] = ["alpha", "beta", "pre", "rc"];
    const AFTER: [&str; 5] = ["cvs", "svn", "git", "hg", "p"];
    let digits = |s: &mut &str| take(s, |c| c.is_ascii_digit()).parse().unwrap_or(i128::MAX);
    let mut parts = Vec::new();
    let mut first = true;
    while let Some(c) = version.chars().next() {
        let at_digit = c.is_ascii_digit();
        if at_digit || (c == '.' && !first) {
            take(&mut version, |c| c == '.');
            // 1.01 is older than 1.1: zeros in front count by themselves.
            let zeros = if first { 0 } else { take(&mut version, |c| c == '0').len() };
            if zeros > 0 {
                parts.push(ApkPart(Class::Zeros, -(zeros as i128)));
            }
            if version.starts_with(|c: char| c.is_ascii_digit()) {
                let class = if zeros > 0 || first { Class::Number } else { Class::Zeros };
                parts.push(ApkPart(class, digits(&mut version)));
            }
            first = false;
        } else if let Some(rest) = version.strip_prefix("-r") {
            version = rest;
            parts.push(ApkPart(Class::Revision, digits(&mut version)));
        } else if let Some(rest) = version.strip_prefix('_') {
            version = rest;
            let word = take(&mut version, |c| c.is_ascii_alphabetic());
            let before = BEFORE.iter().position(|w| *w == word).map(|n| n as i128 - BEFORE.len() as i128);
            let after = AFTER.iter().position(|w| *w == word).map(|n| n as i128 + 1);
            parts.push(ApkPart(Class::Suffix, before.or(after).unwrap_or(0)));
            if version.starts_with(|c: char| c.is_ascii_digit()) {
                parts.push(ApkPart(Class::SuffixNumber, digits(&mut version)));
            }
        } else {
            version = version.get(c.len_utf8()..).unwrap_or("");
            parts.push(ApkPart(Class::Letter, i128::from(u32::from(c))));
        }
    }
    parts
}

/// Takes what `wanted` holds of from the front.
fn take<'a>(text: &mut &'a str, wanted: impl Fn(char) -> bool) -> &'a str {
    let at = text.find(|c| !wanted(c)).unwrap_or(text.len());
    let (front, rest) = text.split_at(at);
    *text = rest;
    front
}

/// Digits of any length, as numbers.
fn number(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    const VERSIONS: [&str; 28] = [
        "1",
        "1.0",
        "1.00",
        "1.1",
        "1.01",
        "1.10",
        "1.9",
        "1.0~rc1",
        "1.0~rc1~git1",
        "1.0^",
        "1.0^git2",
        "1.0-1",
        "1.0-1.1",
        "1.0-10",
        "1:0.9",
        "0:1.0",
        "1.0a",
        "1.0b",
        "1.0+b1",
        "1.0-1+b1",
        "1.0+dfsg-1",
        "2.0",
        "1.0-1~bpo1",
        "20221001",
        "1.a",
        "1.0.",
        "1.fc36",
        "010",
    ];

    fn word(order: Ordering) -> &'static str {
        match order {
            Ordering::Less => "-1",
            Ordering::Equal => "0",
            Ordering::Greater => "1",
        }
    }

    #[test]
    fn dpkg_itself_says_the_same() {
        for a in VERSIONS.iter().filter(|v| !v.contains('^')) {
            let against = VERSIONS.iter().filter(|v| !v.contains('^'));
            let script: String = against
                .clone()
                .map(|b| format!("dpkg --compare-versions {a} lt {b} && echo -1 || {{ dpkg --compare-versions {a} eq {b} && echo 0 || echo 1; }}\n"))
                .collect();
            let out = Command::new("sh").args(["-c", &script]).output().unwrap();
            let said = String::from_utf8(out.stdout).unwrap();
            for (b, said) in against.zip(said.lines()) {
                assert_eq!(word(dpkg(a, b)), said, "{a} and {b}");
            }
        }
    }

    #[test]
    fn rpm_itself_says_the_same() {
        let pairs: Vec<(&str, &str)> =
            VERSIONS.iter().flat_map(|a| VERSIONS.iter().map(move |b| (*a, *b))).collect();
        let plain = |v: &str| !v.contains(':') && !v.contains('-');
        let pairs: Vec<_> = pairs.into_iter().filter(|(a, b)| plain(a) && plain(b)).collect();
        let script: String =
            pairs.iter().map(|(a, b)| format!("print(rpm.vercmp('{a}','{b}')..' ')\n")).collect();
        let out = Command::new("rpm").args(["--eval", &format!("%{{lua:{script}}}")]).output().unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert_eq!(said.split_whitespace().count(), pairs.len(), "{}", String::from_utf8_lossy(&out.stderr));
        for ((a, b), said) in pairs.iter().zip(said.split_whitespace()) {
            assert_eq!(word(rpm(a, b)), said, "{a} and {b}");
        }
        assert_eq!(rpm("1:1-1", "2-1"), Ordering::Greater);
        assert_eq!(rpm("1-2", "1-10"), Ordering::Less);
    }

    #[test]
    fn apk_orders_as_its_own_tests_do() {
        // From apk-tools' test/version.data.
        for line in [
            "2.34 > 0.1.0_alpha",
            "0.1.0_alpha = 0.1.0_alpha",
            "0.1.0_alpha < 0.1.3_alpha",
            "0.1.0_alpha2 > 0.1.0_alpha",
            "23_foo > 4_beta",
            "1.0 < 1.0.1",
            "1.0_p1 > 1.0",
            "1.0_rc1 < 1.0",
            "1.0_pre3 < 1.0_rc1",
            "1.2.3-r1 < 1.2.3-r10",
            "0.12.1 < 0.12.1a",
            "1.01 < 1.1",
            "1.10 > 1.9",
            "6.0_p1 > 6.0_rc2",
            "1.0-r1 > 1.0",
            "1.0 > 1.00",
            "0.7-r1 < 0.7.1-r1",
            "3.0.0_pre20180104-r0 < 3.0.0-r0",
        ] {
            let [a, sign, b] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let wanted = match sign {
                "<" => Ordering::Less,
                ">" => Ordering::Greater,
                _ => Ordering::Equal,
            };
            assert_eq!(apk(a, b), wanted, "{line}");
            assert_eq!(apk(b, a), wanted.reverse(), "{line} the other way");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_texts_are_ordered_alike_both_ways(a in "[0-9a-c~^.:_+-]{0,12}", b in ".{0,8}") {
            for order in [dpkg, rpm, apk] {
                proptest::prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
                proptest::prop_assert_eq!(order(&a, &a), Ordering::Equal);
            }
        }
    }
}
