//! The kernel command line, as far as `init` reads it.

use crate::{
    digest::Digest,
    failure::{Failure, Result},
};
use std::{net::SocketAddrV4, time::Duration};

/// The words of a command line, quotes resolved.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Words(Vec<String>);

impl Words {
    /// Splits as the kernel does (`lib/cmdline.c`, next_arg): at blanks outside double quotes; quotes
    /// are taken away.
    pub fn parse(line: &str) -> Words {
        let mut words = Vec::new();
        let (mut word, mut quoted, mut any) = (String::new(), false, false);
        for c in line.chars() {
            match c {
                '"' => (quoted, any) = (!quoted, true),
                c if c.is_whitespace() && !quoted => {
                    if any {
                        words.push(std::mem::take(&mut word));
                    }
                    any = false;
                }
                c => {
                    word.push(c);
                    any = true;
                }
            }
        }
        if any {
            words.push(word);
        }
        Words(words)
    }

    /// The last value of `key=value`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
    }

    /// These words and `more`; where both say something, `more` counts.
    pub fn and(&self, more: Words) -> Words {
        Words(self.0.iter().cloned().chain(more.0).collect())
    }

    /// True where `word` stands alone or as `word=…`.
    pub fn has(&self, word: &str) -> bool {
        self.get(word).is_some() || self.0.iter().any(|w| w == word)
    }

    /// Shortest and longest wait before a failed boot restarts. A test (or an operator, by `panic=`)
    /// shortens it; else a rack of machines must not come back at once.
    pub fn wait_before_reboot(&self) -> (Duration, Duration) {
        let seconds = |s| Duration::from_secs(s);
        if self.has("pristine.test") {
            return (seconds(2), seconds(3));
        }
        match self.get("panic").and_then(|v| v.parse::<i64>().ok()) {
            Some(now) if now < 0 => (seconds(1), seconds(2)),
            Some(n) if n > 0 => {
                let n = n.unsigned_abs().min(3600);
                (seconds(n), seconds(2 * n))
            }
            _ => (seconds(30), seconds(60)),
        }
    }
}

/// What this boot is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// `pristine.server`: where the service is.
    pub server: SocketAddrV4,
    /// `pristine.image`: the image's identity, which everything else is checked against. `None` with
    /// `pristine.discover`: it waits until it is assigned one.
    pub image: Option<Digest>,
    /// `pristine.boot`: the boot attempt's name.
    pub attempt: String,
    /// `pristine.token`: allows reports of this boot, nothing else.
    pub token: String,
    /// `BOOTIF`: MAC of the NIC that booted.
    pub mac: Option<[u8; 6]>,
    /// `pristine.root=stream`: its root is mounted first and fetched as it is read.
    pub streams: bool,
    /// `init`: the image's own init, where it isn't `/sbin/init`.
    pub init: Option<String>,
    /// `pristine.config`: the first digits of the configuration that goes with this boot; on the command line of an
    /// initramfs with keys any word, which lets it take one.
    pub config: Option<String>,
}

/// What an initramfs must know before it can ask the server for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// `pristine.server`.
    pub server: SocketAddrV4,
    /// `BOOTIF`.
    pub mac: Option<[u8; 6]>,
}

fn word<'a>(words: &'a Words, key: &str) -> Result<&'a str> {
    words.get(key).ok_or_else(|| {
        Failure(format!(
            "the kernel command line has no {key}=: this image must be booted by Pristine's boot script"
        ))
    })
}

fn bad(key: &str, value: &str, want: &str) -> Failure {
    Failure(format!("the kernel command line says {key}={value}, which is not {want}"))
}

impl Way {
    /// Reads the words that every command line has.
    pub fn from_words(words: &Words) -> Result<Way> {
        let server = word(words, "pristine.server")?;
        Ok(Way {
            server: server_addr(server)
                .ok_or_else(|| bad("pristine.server", server, "http://IPV4 or http://IPV4:PORT"))?,
            mac: match words.get("BOOTIF") {
                Some(text) => Some(bootif(text).ok_or_else(|| bad("BOOTIF", text, "01-52-54-00-12-34-56"))?),
                None => None,
            },
        })
    }
}

impl Boot {
    /// Reads the words that Pristine's boot script puts on the command line.
    pub fn from_words(words: &Words) -> Result<Boot> {
        let Way { server, mac } = Way::from_words(words)?;
        let image = match words.has("pristine.discover") {
            true => None,
            false => Some(word(words, "pristine.image")?),
        };
        let attempt = word(words, "pristine.boot")?;
        let harmless = |s: &str| {
            (1..=128).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        if !harmless(attempt) {
            return Err(bad("pristine.boot", attempt, "the name of a boot attempt"));
        }
        let token = word(words, "pristine.token")?;
        if !harmless(token) {
            return Err(Failure("the kernel command line has a pristine.token with odd characters".into()));
        }
        Ok(Boot {
            server,
            image: image
                .map(|image| image.parse().map_err(|()| bad("pristine.image", image, "64 hex digits")))
                .transpose()?,
            attempt: attempt.to_owned(),
            token: token.to_owned(),
            mac,
            streams: words.get("pristine.root") == Some("stream"),
            init: words.get("init").filter(|i| i.starts_with('/')).map(str::to_owned),
            config: words
                .has("pristine.config")
                .then(|| words.get("pristine.config").unwrap_or_default().to_owned()),
        })
    }
}

/// `http://198.18.0.1:8080`; port 80 where none is named. `init` has no DNS.
pub fn server_addr(url: &str) -> Option<SocketAddrV4> {
    let rest = url.strip_prefix("http://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    rest.parse().ok().or_else(|| Some(SocketAddrV4::new(rest.parse().ok()?, 80)))
}

fn two_hex_digits(text: &str) -> Option<u8> {
    let only_digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
    only_digits.then(|| u8::from_str_radix(text, 16).ok())?
}

/// PXELINUX's form: hardware type 01 and the MAC, by hyphens (or colons).
fn bootif(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text.split(['-', ':']).map(two_hex_digits);
    if bytes.next()? != Some(1) {
        return None;
    }
    let mac: Vec<u8> = bytes.collect::<Option<_>>()?;
    mac.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const IMAGE: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn line(change: impl Fn(String) -> String) -> Result<Boot> {
        let line = format!(
            "quiet console=ttyS0 pristine.server=http://198.18.0.1:8080 pristine.image={IMAGE} \
             pristine.boot=00000000000000ab pristine.token=tok_EN-1 BOOTIF=01-52-54-00-12-34-ab"
        );
        Boot::from_words(&Words::parse(&change(line)))
    }

    #[test]
    fn reads_what_the_boot_script_says() {
        let boot = line(|l| l).unwrap();
        assert_eq!(boot.server, "198.18.0.1:8080".parse().unwrap());
        assert_eq!(boot.image.unwrap().to_string(), IMAGE);
        let waits = line(|l| l.replace(&format!("pristine.image={IMAGE}"), "pristine.discover")).unwrap();
        assert_eq!((waits.image, waits.attempt.as_str()), (None, "00000000000000ab"));
        assert_eq!(boot.mac, Some([0x52, 0x54, 0, 0x12, 0x34, 0xab]));
        assert_eq!((boot.attempt.as_str(), boot.token.as_str()), ("00000000000000ab", "tok_EN-1"));
        assert_eq!((boot.init, boot.config, boot.streams), (None, None, false));
        assert!(line(|l| l + " pristine.root=stream").unwrap().streams);
        assert_eq!(line(|l| l + " pristine.config=ab12").unwrap().config.as_deref(), Some("ab12"));
        assert_eq!(line(|l| l + " pristine.config").unwrap().config.as_deref(), Some(""));
        assert_eq!(line(|l| l + " init=/bin/tiny").unwrap().init.as_deref(), Some("/bin/tiny"));
    }

    #[test]
    fn says_which_word_is_missing_or_wrong() {
        for word in ["pristine.server", "pristine.image", "pristine.boot", "pristine.token"] {
            let missing = line(|l| l.replace(word, "x.y")).unwrap_err().0;
            assert!(missing.contains(word), "{missing}");
        }
        for (from, to) in [
            ("http://198.18.0.1:8080", "https://198.18.0.1"),
            ("http://198.18.0.1:8080", "http://example.org"),
            (IMAGE, "abc"),
            ("01-52", "52-54-00"),
            ("34-ab", "34-+b"),
            ("tok_EN-1", "a\"b"),
        ] {
            assert!(line(|l| l.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn splits_like_the_kernel() {
        let words = Words::parse(" a=1  b=\"x y\"\n\"c=2 3\" a=4 quiet ");
        assert_eq!(words.get("a"), Some("4"));
        assert_eq!(words.get("b"), Some("x y"));
        assert_eq!(words.get("c"), Some("2 3"));
        assert!(words.has("quiet") && !words.has("qui"));
    }

    #[test]
    fn waits_long_unless_told_otherwise() {
        let wait = |line| Words::parse(line).wait_before_reboot().0.as_secs();
        assert_eq!(wait("quiet"), 30);
        assert_eq!(wait("panic=0"), 30);
        assert_eq!(wait("panic=7"), 7);
        assert_eq!(wait("panic=-1"), 1);
        assert_eq!(wait("pristine.test=1"), 2);
    }
}
