//! Many machines named, described and pinned at once, all or none. Pure: what is to become of each goes in,
//! and the machines as they then are come out, or everything that stands against it.
//!
//! Conflicts are looked for in what comes out: two machines may swap their hostnames in one go.

use crate::model::{BootTarget, Mac, Machine, MachinePatch};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// Longest label, value of one and rack name, in characters.
const MAX_WORD: usize = 64;
/// Labels of one machine, other MACs of one machine.
const MAX_MANY: usize = 64;
/// Faults that are looked for before the rest is left alone.
const MAX_FAULTS: usize = 20;

/// What is to become of one machine. What is `None` stays; an inner `None` clears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Any of its MACs; one that nobody has is put on record.
    pub mac: Mac,
    /// Name and description.
    pub patch: MachinePatch,
    /// Its pin.
    pub pin: Option<Option<BootTarget>>,
}

/// What is known of machines.
pub trait Known {
    /// The machine of a MAC (any of its MACs), on record or heard of.
    fn machine(&self, mac: Mac) -> Option<&Machine>;
    /// Whether it is on record.
    fn on_record(&self, mac: Mac) -> bool;
    /// The machine of a hostname.
    fn named(&self, hostname: &str) -> Option<&Machine>;
}

/// A machine before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// `None` where it is new on record.
    pub before: Option<Machine>,
    /// As it is to be.
    pub after: Machine,
}

/// What stands against an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which edit, from 0.
    pub edit: usize,
    /// What of it: `mac`, `hostname`, `rack`, `nbp`, `other_macs`, `label.NAME` or `pin`.
    pub field: String,
    /// What is wrong.
    pub what: Wrong,
}

/// What can be wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It can't be, whatever else there is.
    Bad(String),
    /// Another machine has that hostname or MAC.
    Taken {
        /// What.
        what: String,
        /// Who has it.
        by: Mac,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Bad(words) => f.write_str(words),
            Wrong::Taken { what, by } => write!(f, "{what} is already machine {by}: change that one first"),
        }
    }
}

/// The machines as they then are, in the order of the edits.
///
/// # Errors
/// All that is wrong, the first twenty; then nothing of it may be done.
pub fn edited(known: &impl Known, edits: Vec<Edit>) -> Result<Vec<Edited>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut out: Vec<Edited> = Vec::with_capacity(edits.len());
    let mut first: HashMap<Mac, usize> = HashMap::with_capacity(edits.len());
    for (n, edit) in edits.into_iter().enumerate() {
        let seen = known.machine(edit.mac);
        let mut machine = seen.cloned().unwrap_or_else(|| Machine::new(edit.mac, 0));
        let mut fault =
            |field: &str, what: Wrong| faults.push(Fault { edit: n, field: field.to_owned(), what });
        if !edit.mac.is_usable() {
            fault("mac", Wrong::Bad(format!("{} can't be the MAC address of a machine", edit.mac)));
        }
        if let Some(earlier) = first.insert(machine.mac, n) {
            let which = if machine.mac == edit.mac { String::new() } else { format!(", as {}", machine.mac) };
            fault(
                "mac",
                Wrong::Bad(format!(
                    "machine {} is there twice{which}: number {} is the same",
                    edit.mac,
                    earlier + 1
                )),
            );
        }
        patched(&mut machine, edit.patch, &mut fault);
        if let Some(pin) = edit.pin {
            machine.pin = pin;
        }
        let before = seen.filter(|m| known.on_record(m.mac)).cloned();
        out.push(Edited { before, after: machine });
        if faults.len() >= MAX_FAULTS {
            return Err(faults);
        }
    }
    conflicts(known, &first, &out, &mut faults);
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

/// Changes one machine, as far as that can be said without a look at the others.
fn patched(machine: &mut Machine, patch: MachinePatch, fault: &mut impl FnMut(&str, Wrong)) {
    let mut check = |field: &str, checked: Result<(), String>| {
        if let Err(words) = checked {
            fault(field, Wrong::Bad(words));
        }
    };
    if let Some(hostname) = patch.hostname {
        check("hostname", hostname.as_deref().map_or(Ok(()), check_hostname));
        machine.hostname = hostname;
    }
    if let Some(rack) = patch.rack {
        check("rack", rack.as_deref().map_or(Ok(()), |r| check_word("rack", r)));
        machine.rack = rack;
    }
    if let Some(nbp) = patch.nbp.filter(|nbp| machine.nbp != *nbp) {
        machine.nbp = nbp;
        machine.generation += 1;
    }
    if let Some(macs) = patch.other_macs {
        if let Some(bad) = macs.iter().find(|mac| !mac.is_usable() || **mac == machine.mac) {
            check("other_macs", Err(format!("{bad} can't be another MAC of {}", machine.mac)));
        }
        machine.other_macs = macs;
        machine.other_macs.sort_unstable();
        machine.other_macs.dedup();
    }
    for (label, value) in patch.labels {
        let field = format!("label.{}", label.chars().take(MAX_WORD).collect::<String>());
        match value {
            Some(value) => {
                check(&field, check_word("label", &label));
                check(&field, check_word("label value", &value));
                machine.labels.insert(label, value);
            }
            None => {
                machine.labels.remove(&label);
            }
        }
    }
    for (field, count) in [("labels", machine.labels.len()), ("other_macs", machine.other_macs.len())] {
        if count > MAX_MANY {
            check(field, Err(format!("a machine has at most {MAX_MANY} labels and other MACs")));
        }
    }
}

/// Hostnames and MACs that two machines would have.
fn conflicts(known: &impl Known, edits: &HashMap<Mac, usize>, all: &[Edited], faults: &mut Vec<Fault>) {
    let is_edited = |mac: Mac| edits.contains_key(&mac);
    let mut names: BTreeMap<String, Mac> = BTreeMap::new();
    let mut macs: HashMap<Mac, Mac> = all.iter().map(|e| (e.after.mac, e.after.mac)).collect();
    for (n, Edited { after, .. }) in all.iter().enumerate() {
        if faults.len() >= MAX_FAULTS {
            return;
        }
        let mut taken = |field: &str, what: String, by: Mac| {
            faults.push(Fault { edit: n, field: field.to_owned(), what: Wrong::Taken { what, by } });
        };
        if let Some(name) = &after.hostname {
            let owner = known.named(name).map(|m| m.mac).filter(|mac| !is_edited(*mac));
            let owner = owner.or_else(|| names.insert(name.to_ascii_lowercase(), after.mac));
            if let Some(by) = owner.filter(|by| *by != after.mac) {
                taken("hostname", format!("hostname {name}"), by);
            }
        }
        for mac in &after.other_macs {
            // A stranger of that MAC becomes this machine; one on record must be forgotten first.
            let owner =
                known.machine(*mac).map(|m| m.mac).filter(|by| known.on_record(*by) && !is_edited(*by));
            let owner = owner.or_else(|| macs.insert(*mac, after.mac));
            if let Some(by) = owner.filter(|by| *by != after.mac) {
                taken("other_macs", mac.to_string(), by);
            }
        }
    }
}

/// RFC 1123 section 2.1, and nothing that could be taken for a MAC.
fn check_hostname(name: &str) -> Result<(), String> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) && name.parse::<Mac>().is_err() {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(format!(
        "`{name}` can't be a hostname: write letters, digits and `-`, in parts of 1 to 63 with `.` between, and not a MAC"
    ))
}

fn check_word(what: &str, word: &str) -> Result<(), String> {
    let fits = (1..=MAX_WORD).contains(&word.chars().count())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@+".contains(&b));
    if fits {
        return Ok(());
    }
    let word: String = word.chars().take(80).collect();
    Err(format!("`{word}` can't be a {what}: write 1 to {MAX_WORD} of a-z, A-Z, 0-9 and `._-/:@+`"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    /// Machines on record, and strangers from 200 on.
    struct Site(Vec<Machine>);

    impl Known for Site {
        fn machine(&self, mac: Mac) -> Option<&Machine> {
            self.0.iter().find(|m| m.mac == mac || m.other_macs.contains(&mac))
        }
        fn on_record(&self, mac: Mac) -> bool {
            self.machine(mac).is_some_and(|m| m.mac.0[5] < 200)
        }
        fn named(&self, hostname: &str) -> Option<&Machine> {
            self.0.iter().find(|m| m.hostname.as_ref().is_some_and(|h| h.eq_ignore_ascii_case(hostname)))
        }
    }

    fn machine(n: u8, hostname: &str, others: &[u8]) -> Machine {
        let mut m = Machine::new(mac(n), 5);
        m.hostname = Some(hostname.to_owned()).filter(|h| !h.is_empty());
        m.other_macs = others.iter().map(|n| mac(*n)).collect();
        m
    }

    fn named(n: u8, hostname: &str) -> Edit {
        let patch = MachinePatch { hostname: Some(Some(hostname.into())), ..MachinePatch::default() };
        Edit { mac: mac(n), patch, pin: None }
    }

    fn others(n: u8, others: &[u8]) -> Edit {
        let other_macs = Some(others.iter().map(|n| mac(*n)).collect());
        Edit { mac: mac(n), patch: MachinePatch { other_macs, ..MachinePatch::default() }, pin: None }
    }

    fn faults(site: &Site, edits: Vec<Edit>) -> Vec<(usize, String, String)> {
        let faults = edited(site, edits).err().unwrap_or_default();
        faults.into_iter().map(|f| (f.edit, f.field, f.what.to_string())).collect()
    }

    #[test]
    fn names_and_macs_may_be_swapped_and_handed_on_at_once() {
        let site = Site(vec![machine(1, "a", &[11]), machine(2, "b", &[]), machine(200, "", &[])]);
        let all = edited(&site, vec![named(1, "b"), named(2, "a")]).unwrap();
        let names: Vec<_> = all.iter().map(|e| e.after.hostname.as_deref().unwrap()).collect();
        assert_eq!(names, ["b", "a"]);
        let all = edited(&site, vec![others(1, &[]), others(2, &[11, 200, 11])]).unwrap();
        assert_eq!(all[1].after.other_macs, [mac(11), mac(200)], "a stranger's becomes its own");
        let new = edited(&site, vec![named(3, "c"), named(200, "d")]).unwrap();
        assert!(new.iter().all(|e| e.before.is_none()), "new on record, both of them");
        assert_eq!(edited(&site, vec![named(11, "z")]).unwrap()[0].after.mac, mac(1), "by any of its MACs");
    }

    #[test]
    fn everything_that_is_wrong_is_named_with_its_place() {
        let site = Site(vec![machine(1, "a", &[11]), machine(2, "b", &[])]);
        let is = |edits, expected: &[(usize, &str, &str)]| {
            let found = faults(&site, edits);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((n, field, words), (at, key, part)) in found.iter().zip(expected) {
                assert!((n, field.as_str()) == (at, *key) && words.contains(part), "{found:?}");
            }
        };
        is(vec![named(3, "x"), named(1, "B")], &[(1, "hostname", "already machine 02:00:00:00:00:02")]);
        is(vec![named(3, "x"), named(4, "X")], &[(1, "hostname", "already machine 02:00:00:00:00:03")]);
        is(vec![named(1, "x"), named(11, "y")], &[(1, "mac", "twice, as 02:00:00:00:00:01: number 1")]);
        is(vec![others(2, &[11])], &[(0, "other_macs", "already machine 02:00:00:00:00:01")]);
        is(vec![others(2, &[7]), others(3, &[7])], &[(1, "other_macs", "already machine 02:00:00:00:00:02")]);
        is(vec![others(2, &[3]), named(3, "x")], &[(0, "other_macs", "already machine 02:00:00:00:00:03")]);
        is(vec![others(2, &[2])], &[(0, "other_macs", "can't be another MAC")]);
        is(vec![named(2, "-x"), named(3, "a b")], &[(0, "hostname", "`-x`"), (1, "hostname", "`a b`")]);
        let label = |key: &str, value: &str| {
            let labels = BTreeMap::from([(key.to_owned(), Some(value.to_owned()))]);
            vec![Edit { mac: mac(1), patch: MachinePatch { labels, ..MachinePatch::default() }, pin: None }]
        };
        is(label("role", "d b"), &[(0, "label.role", "label value")]);
        assert_eq!(
            faults(&site, (0..255).map(|n| named(n, "-")).collect()).len(),
            MAX_FAULTS + usize::from(false)
        );
    }

    #[test]
    fn hostnames_are_what_dns_allows_and_never_look_like_a_mac() {
        for good in ["web-1", "a", "db1.rack2.example.org", "1web"] {
            assert!(check_hostname(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a_b", "a b", "525400123456", "ä", &"a".repeat(64)] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
    }
}
