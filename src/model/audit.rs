//! The audit log: what changed of what machines boot, by whom, when and why. Records are chained by
//! SHA-256, so that none can be altered, taken out or put in between without a trace.

use super::{Digest, Mac, Millis};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Longest name that a client claims, in characters.
pub const MAX_CLAIM: usize = 128;
/// Longest message of a change, in characters.
pub const MAX_MESSAGE: usize = 500;

/// Who changed something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Somebody with the API's token.
    Operator,
    /// The service by itself.
    #[default]
    Service,
}

/// On whose behalf something is done, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// Who.
    pub who: Who,
    /// The name that an operator's client gave: a claim, since all have one token.
    pub claim: Option<String>,
    /// Why, in words.
    pub why: Option<String>,
}

impl By {
    /// The service by itself.
    pub fn service() -> By {
        By::default()
    }

    /// The service, when it takes back what could not be written.
    pub fn undoing() -> By {
        By { why: Some("taken back: it could not be written".to_owned()), ..By::default() }
    }

    /// An operator. Texts of blanks alone count as none.
    ///
    /// # Errors
    /// A text is too long, or has characters that could drive or mislead a terminal, in words.
    pub fn operator(claim: Option<String>, why: Option<String>) -> Result<By, String> {
        Ok(By {
            who: Who::Operator,
            claim: text("the operator's name", claim, MAX_CLAIM)?,
            why: text("the message", why, MAX_MESSAGE)?,
        })
    }
}

fn text(what: &str, text: Option<String>, most: usize) -> Result<Option<String>, String> {
    let Some(text) = text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()) else { return Ok(None) };
    if text.chars().count() > most {
        return Err(format!("{what} is longer than {most} characters"));
    }
    match text.chars().find(|c| misleads(*c)) {
        Some(c) => Err(format!("{what} has a character that can't be in it: {}", c.escape_unicode())),
        None => Ok(Some(text)),
    }
}

/// Control characters, line separators, and what turns the direction of text or is not seen.
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A machine got a pin, or another one.
    Pinned,
    /// A machine lost its pin.
    Unpinned,
    /// A machine was named or described.
    Set,
    /// A machine was forgotten.
    Forgotten,
    /// A rollout moved a machine to its image.
    Moved,
    /// A machine has back what it had before a rollout moved it.
    Returned,
    /// An image failed a machine boot after boot: it boots its last good one instead.
    FellBack,
    /// A machine that fell back boots again what the rules say.
    Retried,
    /// A machine boots something else since the default or a rule changed.
    Repointed,
    /// The site's default was set or cleared.
    Default,
    /// A selector rule was set.
    RuleSet,
    /// A selector rule was removed.
    RuleRemoved,
    /// A profile was set.
    ProfileSet,
    /// A profile was removed.
    ProfileRemoved,
    /// A secret was set.
    SecretSet,
    /// A secret was removed.
    SecretRemoved,
    /// A rollout was started.
    RolloutStarted,
    /// A rollout came to another state, wave or limit.
    RolloutChanged,
    /// A rollout was removed.
    RolloutRemoved,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Deed::Pinned => "pinned",
            Deed::Unpinned => "unpinned",
            Deed::Set => "set",
            Deed::Forgotten => "forgotten",
            Deed::Moved => "moved",
            Deed::Returned => "returned",
            Deed::FellBack => "fell back",
            Deed::Retried => "retried",
            Deed::Repointed => "re-pointed",
            Deed::Default => "set",
            Deed::RuleSet => "set",
            Deed::RuleRemoved => "removed",
            Deed::ProfileSet => "set",
            Deed::ProfileRemoved => "removed",
            Deed::SecretSet => "set",
            Deed::SecretRemoved => "removed",
            Deed::RolloutStarted => "started",
            Deed::RolloutChanged => "changed",
            Deed::RolloutRemoved => "removed",
        })
    }
}

/// What a record is about: `"default"`, `{"machine": "52:54:…"}`, `{"rule": "dbs"}`, `{"rollout": "web-2"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The site's default.
    Default,
    /// A machine, by its first-seen MAC.
    Machine(Mac),
    /// A profile, by name.
    Profile(String),
    /// A rollout, by name.
    Rollout(String),
    /// A selector rule, by name.
    Rule(String),
    /// A secret, by name.
    Secret(String),
}

/// A value before and after; `None` where there was or is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromTo {
    /// Before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// After.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What changes, as a plan has it and as the log is told: a record without its number, time and author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about.
    pub about: About,
    /// The machine's hostname.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is done.
    pub what: Deed,
    /// What changes, see [`AuditRecord::changes`].
    pub changes: BTreeMap<String, FromTo>,
    /// The service's reason, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Note {
    /// A note of no change yet.
    pub fn new(about: About, what: Deed) -> Note {
        Note { about, name: None, what, changes: BTreeMap::new(), why: None }
    }

    /// Notes what differs.
    pub fn change(&mut self, key: impl Into<String>, from: Option<String>, to: Option<String>) {
        if from != to {
            self.changes.insert(key.into(), FromTo { from, to });
        }
    }

    /// The record with that number, made at that time.
    pub fn signed(self, by: &By, at: Millis, order: u64, seq: u64) -> AuditRecord {
        AuditRecord {
            about: self.about,
            at,
            changes: self.changes,
            claim: by.claim.clone(),
            name: self.name,
            order,
            seq,
            what: self.what,
            who: by.who,
            why: by.why.clone().or(self.why),
        }
    }
}

/// What one record says. Boot targets are `local`, `ignore`, `discover` or an image's whole digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// What it is about.
    pub about: About,
    /// When.
    pub at: Millis,
    /// What changed: `pin`, `hostname`, `rack`, `nbp`, `other_macs`, `power`, `label.NAME`, `moved` and `rollout`
    /// of a machine, and `boots`, what it boots after all rules; `target` and `selector` of default and rules;
    /// `seal` of a secret: the SHA-256 of what is stored, which tells nothing of the value;
    /// `state`, `wave`, `max_failed`, `to` and `selector` of a rollout.
    pub changes: BTreeMap<String, FromTo>,
    /// The name that the operator's client gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The machine's hostname then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The first record of what was done at once with this.
    pub order: u64,
    /// Its number; the first is 1, none is left out.
    pub seq: u64,
    /// What was done.
    pub what: Deed,
    /// By whom.
    pub who: Who,
    /// Why: an operator's message, or the service's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A record in its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// SHA-256 of its canonical bytes, see [`AuditRecord::chained`].
    pub hash: Digest,
    /// The hash of the record before; 64 zeros for the first.
    pub prev: Digest,
    /// What it says.
    #[serde(flatten)]
    pub record: AuditRecord,
}

/// The hash that the first record carries as that of the one before.
pub const NO_RECORD: Digest = Digest([0; 32]);

impl AuditRecord {
    /// Its canonical bytes behind the record of that hash, and their SHA-256. They are JSON as RFC 8785
    /// (JCS) writes it, of the record with `prev` and without `hash`: keys in alphabetical order, no blanks,
    /// whole numbers and texts only.
    ///
    /// # Errors
    /// None that can happen: no key of a record is anything but a text.
    pub fn chained(&self, prev: Digest) -> Result<(String, Digest), serde_json::Error> {
        // serde_json's own map is ordered by key.
        let mut value = serde_json::to_value(self)?;
        if let Some(map) = value.as_object_mut() {
            map.insert("prev".to_owned(), serde_json::to_value(prev)?);
        }
        let body = serde_json::to_string(&value)?;
        let hash = Digest::of(body.as_bytes());
        Ok((body, hash))
    }
}

/// The end of a log, or a place in it: to be noted elsewhere, since a chain by itself can't tell that its
/// newest records were cut off. Written `SEQ:HASH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Number of the record.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
}

impl fmt::Display for LogHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl std::str::FromStr for LogHead {
    type Err = String;

    fn from_str(text: &str) -> Result<LogHead, String> {
        let parsed = text.split_once(':').and_then(|(seq, hash)| {
            Some(LogHead { seq: seq.parse().ok().filter(|seq| *seq > 0)?, hash: hash.parse().ok()? })
        });
        parsed.ok_or_else(|| "write number:hash, as `pristine log --verify` prints it".to_owned())
    }
}

/// What a walk along the chain found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogVerified {
    /// Records that are right, from the first one on.
    pub records: u64,
    /// The last of them.
    pub head: Option<LogHead>,
    /// The first record that is not right; `None` where all are.
    pub broken: Option<Broken>,
}

/// Where a chain is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The record that is not right.
    pub seq: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Walks along a chain, one stored record at a time, from the first.
#[derive(Debug, Default)]
pub struct Walk {
    noted: Option<LogHead>,
    found: LogVerified,
}

impl Walk {
    /// A walk that also looks whether a place that was noted before is still there.
    pub fn new(noted: Option<LogHead>) -> Walk {
        Walk { noted, found: LogVerified::default() }
    }

    /// Takes the next record as it is stored. False where it is the first that is not right: the walk ends.
    pub fn step(&mut self, seq: u64, body: &str, hash: &str) -> bool {
        match self.judge(seq, body, hash) {
            Ok(hash) => {
                self.found.records += 1;
                self.found.head = Some(LogHead { seq, hash });
                true
            }
            Err((seq, why)) => {
                self.found.broken = Some(Broken { seq, why });
                false
            }
        }
    }

    fn judge(&self, seq: u64, body: &str, hash: &str) -> Result<Digest, (u64, String)> {
        let before = self.found.head;
        let (next, prev) = before.map_or((1, NO_RECORD), |h| (h.seq + 1, h.hash));
        if seq != next {
            return Err((next, format!("it is not there: record {seq} is next")));
        }
        let wrong = |why: &str| Err((seq, why.to_owned()));
        let given = Digest::of(body.as_bytes());
        if hash != given.to_string() {
            return wrong("it was altered: its bytes don't give its hash");
        }
        #[derive(Deserialize)]
        struct Place {
            seq: u64,
            prev: Digest,
        }
        match serde_json::from_str::<Place>(body) {
            Err(e) => return Err((seq, format!("it can't be read: {e}"))),
            Ok(place) if place.seq != seq => return wrong("it says that it is another record"),
            Ok(place) if place.prev != prev => return wrong("it doesn't follow on the record before it"),
            Ok(_) => {}
        }
        match self.noted {
            Some(noted) if noted.seq == seq && noted.hash != given => {
                wrong("another one was noted in its place")
            }
            _ => Ok(given),
        }
    }

    /// What was found, after the last record.
    pub fn end(mut self) -> LogVerified {
        let last = self.found.head.map_or(0, |h| h.seq);
        if let Some(noted) = self.noted.filter(|n| n.seq > last && self.found.broken.is_none()) {
            let why = format!("the log ends before it, at record {last}: what came after was cut off");
            self.found.broken = Some(Broken { seq: noted.seq, why });
        }
        self.found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn record(seq: u64) -> AuditRecord {
        AuditRecord {
            about: About::Machine(Mac([2, 0, 0, 0, 0, 1])),
            at: 1_764_000_000_000,
            changes: BTreeMap::from([(
                "pin".to_owned(),
                FromTo { from: None, to: Some(Digest::of(b"web").to_string()) },
            )]),
            claim: Some("zoë@adm1".into()),
            name: Some("db7".into()),
            order: seq,
            seq,
            what: Deed::Pinned,
            who: Who::Operator,
            why: Some("a \"quoted\" reason".into()),
        }
    }

    fn chain(n: u64) -> Vec<(u64, String, String)> {
        let mut prev = NO_RECORD;
        (1..=n)
            .map(|seq| {
                let (body, hash) = record(seq).chained(prev).unwrap();
                prev = hash;
                (seq, body, hash.to_string())
            })
            .collect()
    }

    fn walk(rows: &[(u64, String, String)], noted: Option<LogHead>) -> LogVerified {
        let mut walk = Walk::new(noted);
        let _ = rows.iter().all(|(seq, body, hash)| walk.step(*seq, body, hash));
        walk.end()
    }

    /// What docs/api.md says of the bytes: anybody can make the hash again.
    #[test]
    fn the_canonical_bytes_are_json_with_its_keys_in_order() {
        let (body, hash) = record(1).chained(NO_RECORD).unwrap();
        let zeros = "0".repeat(64);
        let web = Digest::of(b"web");
        assert_eq!(
            body,
            format!(
                "{{\"about\":{{\"machine\":\"02:00:00:00:00:01\"}},\"at\":1764000000000,\"changes\":{{\"pin\":{{\"to\":\"{web}\"}}}},\
                 \"claim\":\"zoë@adm1\",\"name\":\"db7\",\"order\":1,\"prev\":\"{zeros}\",\"seq\":1,\"what\":\"pinned\",\
                 \"who\":\"operator\",\"why\":\"a \\\"quoted\\\" reason\"}}"
            )
        );
        assert_eq!(hash, Digest::of(body.as_bytes()));
        // What the API gives is that with the hash: taken out again, it is the same bytes.
        let entry = AuditEntry { hash, prev: NO_RECORD, record: record(1) };
        let mut value = serde_json::to_value(&entry).unwrap();
        value.as_object_mut().unwrap().remove("hash");
        assert_eq!(value.to_string(), body);
        assert_eq!(
            serde_json::from_str::<AuditEntry>(&serde_json::to_string(&entry).unwrap()).unwrap(),
            entry
        );
    }

    #[test]
    fn whatever_is_done_to_a_chain_its_first_broken_record_is_named() {
        let rows = chain(5);
        let whole = walk(&rows, None);
        assert_eq!((whole.records, whole.broken.clone()), (5, None));
        let broken = |rows: &[(u64, String, String)], noted| walk(rows, noted).broken.map(|b| b.seq);

        let mut altered = rows.clone();
        altered[2].1 = altered[2].1.replace("db7", "db8");
        assert_eq!(broken(&altered, None), Some(3));
        altered[2].2 = Digest::of(altered[2].1.as_bytes()).to_string();
        assert_eq!(broken(&altered, None), Some(4), "with its hash made anew, the next one tells");

        let mut without = rows.clone();
        without.remove(1);
        assert_eq!(broken(&without, None), Some(2));
        let mut swapped = rows.clone();
        swapped.swap(1, 2);
        assert_eq!(broken(&swapped, None), Some(2));
        let mut renumbered = rows.clone();
        renumbered.remove(1);
        renumbered.iter_mut().zip(1..).for_each(|(row, n)| row.0 = n);
        assert_eq!(broken(&renumbered, None), Some(2));

        assert_eq!(broken(&rows[..3], None), None, "a chain can't tell where it ended");
        assert_eq!(broken(&rows[..3], whole.head), Some(5), "a note of its end does");
        assert_eq!(broken(&rows, whole.head), None);
        let other = LogHead { seq: 2, hash: NO_RECORD };
        assert_eq!(broken(&rows, Some(other)), Some(2));
        assert_eq!(whole.head.unwrap().to_string().parse(), Ok(whole.head.unwrap()));
        for bad in ["", "5", "0:ab", "x:y", "5:"] {
            assert!(bad.parse::<LogHead>().is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_are_bounded_and_can_not_drive_a_terminal() {
        let by = |claim: &str, why: &str| By::operator(Some(claim.into()), Some(why.into()));
        let fine = by(" alice@adm1 ", "   ").unwrap();
        assert_eq!((fine.claim.as_deref(), fine.why), (Some("alice@adm1"), None));
        assert!(by(&"ü".repeat(MAX_CLAIM), &"ü".repeat(MAX_MESSAGE)).is_ok());
        assert!(by(&"a".repeat(MAX_CLAIM + 1), "").unwrap_err().contains("operator's name"));
        assert!(by("", &"a".repeat(MAX_MESSAGE + 1)).unwrap_err().contains("message"));
        for bad in ["a\nb", "a\u{1b}[31m", "a\u{202e}b", "a\u{85}b", "a\u{200b}b"] {
            assert!(by("", bad).is_err(), "{bad:?}");
        }
    }
}
