//! What a site is to be, as a document: the same shape as a file (`fleet.toml`) and over the API. Pure: it
//! is read, written and checked here; what it means for a site is said by `declare`.

use super::Selector;
use crate::model::{BootTarget, Mac, Machine, wire::Problem};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Most machines of one document, or of one import.
pub const MAX_MACHINES: usize = 100_000;
/// Longest name of a rule, a rollout or a secret, in characters.
pub const MAX_NAME: usize = 64;
/// Words that stand for a boot target without an image.
const TARGETS: &[&str] = &["local", "ignore", "discover"];

/// The whole document. What it doesn't name is left alone; what it names is as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// What machines boot that have no pin and that no rule picks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Names of its own for images, each a digest or a tag.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// Selector rules; of two with equally many conditions the one that stands first goes first.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleEntry>,
    /// Machines.
    #[serde(rename = "machine", skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineEntry>,
}

/// A selector rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleEntry {
    /// Its name, unique.
    pub name: String,
    /// Which machines.
    pub select: String,
    /// What they boot: one of `images`, a tag, a digest, `local`, `ignore` or `discover`.
    pub target: String,
}

/// A machine: all that an operator says of it. What is left out is cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineEntry {
    /// Any of its MACs.
    pub mac: Mac,
    /// Operator's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Other MACs that are the same machine. Left out, they stay: the service finds some by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_macs: Option<Vec<Mac>>,
    /// Its NBP instead of the firmware's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbp: Option<String>,
    /// Its own boot target, written as that of a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
}

impl MachineEntry {
    /// What a document says of this machine; `name` writes a boot target.
    pub fn of(machine: &Machine, name: impl FnOnce(&BootTarget) -> String) -> MachineEntry {
        MachineEntry {
            mac: machine.mac,
            hostname: machine.hostname.clone(),
            rack: machine.rack.clone(),
            labels: machine.labels.clone(),
            other_macs: Some(machine.other_macs.clone()).filter(|macs| !macs.is_empty()),
            nbp: machine.nbp.clone(),
            pin: machine.pin.as_ref().map(name),
        }
    }

    /// Whether it says nothing but which MACs are one machine.
    pub fn is_empty(&self) -> bool {
        *self == MachineEntry { other_macs: self.other_macs.clone(), ..MachineEntry::bare(self.mac) }
    }

    /// An entry that says nothing.
    pub fn bare(mac: Mac) -> MachineEntry {
        MachineEntry {
            mac,
            hostname: None,
            rack: None,
            labels: BTreeMap::new(),
            other_macs: None,
            nbp: None,
            pin: None,
        }
    }
}

/// Body of a request that makes a site what a document says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyOrder {
    /// What it is to be.
    pub document: Document,
    /// Take away what the document doesn't name.
    #[serde(default)]
    pub prune: bool,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Only at this revision: where something was changed since, nothing is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// A site as a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Number of the audit log's newest record.
    pub revision: u64,
    /// What is.
    pub document: Document,
}

impl Document {
    /// Its selectors, in order of the rules.
    ///
    /// # Errors
    /// All that is wrong with it by itself, whatever site it is for.
    pub fn check(&self) -> Result<Vec<Selector>, Vec<Problem>> {
        let mut problems = Vec::new();
        if self.machines.len() > MAX_MACHINES {
            problems.push(Problem::new("machine", format!("there are more than {MAX_MACHINES} machines")));
        }
        for name in self.images.keys() {
            let path = || format!("images.{}", quoted(name));
            if TARGETS.contains(&name.as_str()) {
                problems.push(Problem::new(path(), format!("`{name}` is no image: give it another name")));
            } else if name.is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
                problems.push(Problem::new(path(), "a name of an image has 1 to 128 characters"));
            }
        }
        let mut selectors = Vec::new();
        let mut names: HashMap<&str, usize> = HashMap::new();
        for (n, rule) in self.rules.iter().enumerate() {
            if !is_plain_name(&rule.name) {
                problems.push(Problem::new(
                    format!("rule[{n}].name"),
                    format!(
                        "it can't be the name of a rule: write 1 to {MAX_NAME} of a-z, A-Z, 0-9 and `._-`"
                    ),
                ));
            }
            if names.insert(&rule.name, n).is_some() {
                problems.push(Problem::new(
                    format!("rule[{n}].name"),
                    format!("rule {} is there twice", rule.name),
                ));
            }
            match rule.select.parse::<Selector>() {
                Ok(selector) => selectors.push(selector),
                Err(e) => problems.push(Problem {
                    path: format!("rule[{n}].select"),
                    column: Some(e.column),
                    message: e.help.map_or(e.what.clone(), |help| format!("{}; {help}", e.what)),
                }),
            }
        }
        if problems.is_empty() { Ok(selectors) } else { Err(problems) }
    }

    /// Every reference to a boot target in it, with where it stands; names of its own are followed.
    pub fn references(&self) -> Vec<(String, &str)> {
        let default = self.default.iter().map(|d| ("default".to_owned(), d.as_str()));
        let rules =
            self.rules.iter().enumerate().map(|(n, r)| (format!("rule[{n}].target"), r.target.as_str()));
        let pins = self.machines.iter().enumerate();
        let pins = pins.filter_map(|(n, m)| Some((format!("machine[{n}].pin"), m.pin.as_deref()?)));
        let all = default.chain(rules).chain(pins);
        let mut out: Vec<(String, &str)> = all
            .map(|(path, name)| match self.images.get(name) {
                Some(image) => (format!("images.{}", quoted(name)), image.as_str()),
                None => (path, name),
            })
            .collect();
        // Those that nobody uses are looked at, too.
        out.extend(
            self.images.iter().map(|(name, image)| (format!("images.{}", quoted(name)), image.as_str())),
        );
        let mut seen = std::collections::HashSet::new();
        out.retain(|(_, reference)| seen.insert(*reference));
        out
    }

    /// What a name in it stands for.
    pub fn reference<'a>(&'a self, name: &'a str) -> &'a str {
        self.images.get(name).map_or(name, String::as_str)
    }

    /// The document as a file: the same for the same document, whoever writes it.
    pub fn to_toml(&self) -> String {
        let mut out = String::from(HEAD);
        if let Some(default) = &self.default {
            out.push_str(&format!("\ndefault = {}\n", quoted(default)));
        }
        if !self.images.is_empty() {
            out.push_str("\n[images]\n");
            for (name, image) in &self.images {
                out.push_str(&format!("{} = {}\n", quoted(name), quoted(image)));
            }
        }
        for rule in &self.rules {
            out.push_str("\n[[rule]]\n");
            for (key, value) in [("name", &rule.name), ("select", &rule.select), ("target", &rule.target)] {
                out.push_str(&format!("{key} = {}\n", quoted(value)));
            }
        }
        for machine in &self.machines {
            out.push_str(&format!("\n[[machine]]\nmac = {}\n", quoted(&machine.mac.to_string())));
            let texts = [("hostname", &machine.hostname), ("rack", &machine.rack)];
            let more = [("nbp", &machine.nbp), ("pin", &machine.pin)];
            let line = |(key, value): (&str, &Option<String>)| {
                value.as_ref().map_or_else(String::new, |v| format!("{key} = {}\n", quoted(v)))
            };
            out.extend(texts.map(line));
            if !machine.labels.is_empty() {
                let labels = machine.labels.iter().map(|(k, v)| format!("{} = {}", key(k), quoted(v)));
                out.push_str(&format!("labels = {{ {} }}\n", labels.collect::<Vec<_>>().join(", ")));
            }
            if let Some(macs) = &machine.other_macs {
                let macs = macs.iter().map(|m| quoted(&m.to_string()));
                out.push_str(&format!("other_macs = [{}]\n", macs.collect::<Vec<_>>().join(", ")));
            }
            out.extend(more.map(line));
        }
        out
    }
}

const HEAD: &str = "\
# What a Pristine site is to be. `pristine apply --dry-run FILE` shows what it would change, `pristine apply FILE`
# makes it so. What stands here is as it says; what doesn't is left alone, or cleared with --prune.
# [images] names digests, so that a new version is one line here. docs/fleet-file.md has every key.
";

/// A text as TOML writes it on one line, as a value or as a key.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A key as TOML writes it.
fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { text.to_owned() } else { quoted(text) }
}

/// A name that paths, lists and shells take as it is.
pub fn is_plain_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = MachineEntry> {
        let text = || prop::option::of("[a-z\"\\\\#= ü\\[\\]\n]{0,6}");
        let labels = prop::collection::btree_map("[a-z.\" ]{0,4}", "[a-z\"' ]{0,4}", 0..3);
        let macs = prop::option::of(prop::collection::vec(any::<[u8; 6]>().prop_map(Mac), 0..3));
        (any::<[u8; 6]>(), text(), text(), labels, macs, text(), text()).prop_map(
            |(mac, hostname, rack, labels, other_macs, nbp, pin)| MachineEntry {
                mac: Mac(mac),
                hostname,
                rack,
                labels,
                other_macs,
                nbp,
                pin,
            },
        )
    }

    fn document() -> impl Strategy<Value = Document> {
        let rule = ("[a-z]{0,3}", "[a-z=\"' ]{0,8}", "[a-z:\\\\]{0,4}");
        let rule = rule.prop_map(|(name, select, target)| RuleEntry { name, select, target });
        (
            prop::option::of("[a-z:\"]{0,4}"),
            prop::collection::btree_map("[a-z:\". ]{0,4}", "[a-z:]{0,4}", 0..3),
            prop::collection::vec(rule, 0..3),
            prop::collection::vec(entry(), 0..4),
        )
            .prop_map(|(default, images, rules, machines)| Document {
                default,
                images,
                rules,
                machines,
            })
    }

    proptest! {
        /// Whatever texts are in it.
        #[test]
        fn what_is_written_reads_back_as_the_same(document in document()) {
            let text = document.to_toml();
            let again: Document = toml::from_str(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(&again, &document);
            prop_assert_eq!(again.to_toml(), text);
            let json = serde_json::to_string(&document).unwrap();
            prop_assert_eq!(serde_json::from_str::<Document>(&json).unwrap(), document);
        }
    }

    #[test]
    fn what_is_wrong_by_itself_is_named_with_its_place() {
        let text = r#"
            default = "web"
            [images]
            web = "web:2"
            local = "web:1"
            [[rule]]
            name = "a b"
            select = "rack="
            target = "web"
            [[rule]]
            name = "r"
            select = "all"
            target = "x"
            [[rule]]
            name = "r"
            select = "all"
            target = "x"
        "#;
        let document: Document = toml::from_str(text).unwrap();
        let problems = document.check().unwrap_err();
        let places: Vec<(&str, Option<usize>)> =
            problems.iter().map(|p| (p.path.as_str(), p.column)).collect();
        let expected = [
            ("images.\"local\"", None),
            ("rule[0].name", None),
            ("rule[0].select", Some(6)),
            ("rule[2].name", None),
        ];
        assert_eq!(places, expected);
        let references: Vec<_> = document.references();
        assert_eq!(
            references,
            [
                ("images.\"web\"".to_owned(), "web:2"),
                ("rule[1].target".to_owned(), "x"),
                ("images.\"local\"".to_owned(), "web:1")
            ]
        );
    }
}
