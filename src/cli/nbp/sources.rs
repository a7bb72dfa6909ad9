//! Which Debian mirror this host uses, out of apt's own lists: `sources.list(5)`, both formats.

/// A Debian mirror, and who vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) uri: String,
    /// As a Signed-By field has it: a path, or a key over several lines.
    pub(super) signed_by: Option<String>,
    /// The administrator trusts it without a signature.
    pub(super) trusted: bool,
}

/// Names of Debian's releases, and the names that move among them.
const RELEASES: &[&str] = &[
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// A list in apt's one-line format.
pub(super) fn one_line(text: &str) -> Vec<Mirror> {
    text.lines().filter_map(|line| line_mirror(line.split('#').next().unwrap_or(""))).collect()
}

fn line_mirror(line: &str) -> Option<Mirror> {
    let rest = line.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix(|c: char| c.is_whitespace())?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    if !is_debian(&[suite], &words.collect::<Vec<_>>()) {
        return None;
    }
    let option = |name: &str| {
        let of = |word: &str| {
            word.split_once('=').filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|o| o.1.to_owned())
        };
        options.split_whitespace().find_map(of)
    };
    Some(Mirror {
        uri: uri.to_owned(),
        signed_by: option("signed-by").map(|paths| paths.replace(',', " ")),
        trusted: option("trusted").is_some_and(|v| is_yes(&v)),
    })
}

/// A list in deb822 format.
pub(super) fn deb822(text: &str) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            mirrors.extend(stanza_mirrors(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    mirrors
}

fn stanza_mirrors(fields: &[(String, String)]) -> Vec<Mirror> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words = |name| field(name).unwrap_or("").split_whitespace().collect::<Vec<_>>();
    let enabled = field("enabled").is_none_or(is_yes);
    if !enabled || !words("types").contains(&"deb") || !is_debian(&words("suites"), &words("components")) {
        return Vec::new();
    }
    let mirror = |uri: &&str| Mirror {
        uri: (*uri).to_owned(),
        signed_by: field("signed-by").map(str::to_owned),
        trusted: field("trusted").is_some_and(is_yes),
    };
    words("uris").iter().map(mirror).collect()
}

fn is_yes(word: &str) -> bool {
    ["yes", "true", "1", "on", "with", "enable"].contains(&word.trim().to_ascii_lowercase().as_str())
}

fn is_debian(suites: &[&str], components: &[&str]) -> bool {
    suites.iter().any(|suite| RELEASES.contains(suite)) && components.contains(&"main")
}

/// Likeliest first: other vendors have a `stable main` too, but rarely under `/debian`.
pub(super) fn by_likelihood(mut mirrors: Vec<Mirror>) -> Vec<Mirror> {
    mirrors.sort_by_key(|mirror| !mirror.uri.trim_end_matches('/').ends_with("/debian"));
    let mut seen = Vec::new();
    mirrors.retain(|mirror| {
        let new = !seen.contains(&mirror.uri);
        seen.push(mirror.uri.clone());
        new
    });
    mirrors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(uri: &str, signed_by: Option<&str>, trusted: bool) -> Mirror {
        Mirror { uri: uri.into(), signed_by: signed_by.map(str::to_owned), trusted }
    }

    #[test]
    fn finds_debian_among_one_line_entries() {
        let text = "# comment\n\
             deb-src http://mirror.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k.gpg,/l.gpg] http://mirror.example/debian bookworm main contrib # here\n\
             deb [trusted=yes] https://vendor.example/apt stable main\n\
             deb http://mirror.example/debian-security bookworm-security main\n\
             deb https://vendor.example/docker bookworm stable\n\
             debt http://mirror.example/x bookworm main\n";
        let found = by_likelihood(one_line(text));
        let expected = [
            mirror("http://mirror.example/debian", Some("/k.gpg /l.gpg"), false),
            mirror("https://vendor.example/apt", None, true),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn finds_debian_among_stanzas_and_keeps_embedded_keys() {
        let text = "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian/\nSuites: trixie trixie-updates\n\
             Components: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n\n\
             Types: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\nEnabled: no\n\n\
             Types: deb\nURIs: http://mirror.example/debian-security\nSuites: trixie-security\nComponents: main\n";
        let key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==";
        assert_eq!(deb822(text), [mirror("http://mirror.example/debian/", Some(key), false)]);
    }
}
