#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use super::*;
use crate::{fleet::document::Document, model::Mac};
use proptest::prelude::*;

#[derive(Clone, Debug, Default)]
struct State {
    default: Option<BootTarget>,
    rules: BTreeMap<String, SelectorRule>,
    machines: BTreeMap<Mac, Machine>,
}

impl Known for State {
    fn machine(&self, mac: Mac) -> Option<&Machine> {
        self.machines.values().find(|m| m.mac == mac || m.other_macs.contains(&mac))
    }
    fn on_record(&self, mac: Mac) -> bool {
        self.machine(mac).is_some()
    }
    fn named(&self, hostname: &str) -> Option<&Machine> {
        self.machines.values().find(|m| m.hostname.as_ref().is_some_and(|h| h.eq_ignore_ascii_case(hostname)))
    }
}

impl Site for State {
    fn default_target(&self) -> Option<&BootTarget> {
        self.default.as_ref()
    }
    fn rules(&self) -> Vec<&SelectorRule> {
        self.rules.values().collect()
    }
    fn described(&self) -> Vec<&Machine> {
        self.machines.values().filter(|m| !MachineEntry::of(m, word).is_empty()).collect()
    }
}

fn word(target: &BootTarget) -> String {
    target.to_string()
}

fn target(word: &str) -> BootTarget {
    match word {
        "local" => BootTarget::Local,
        "ignore" => BootTarget::Ignore,
        _ => BootTarget::Discover,
    }
}

impl State {
    fn apply(&mut self, batch: Batch) {
        for edited in batch.machines {
            self.machines.insert(edited.after.mac, edited.after);
        }
        for (name, rule) in batch.rules {
            match rule {
                Some((_, rule)) => self.rules.insert(name, rule),
                None => self.rules.remove(&name),
            };
        }
        if let Some(default) = batch.default {
            self.default = default;
        }
    }

    /// The document that says what is.
    fn document(&self) -> Document {
        let mut rules: Vec<&SelectorRule> = self.rules.values().collect();
        rules.sort_by_key(|r| (r.created, r.name.clone()));
        let rule = |r: &SelectorRule| crate::fleet::document::RuleEntry {
            name: r.name.clone(),
            select: r.selector.clone(),
            target: word(&r.target),
        };
        Document {
            default: self.default.as_ref().map(word),
            images: BTreeMap::new(),
            rules: rules.into_iter().map(rule).collect(),
            machines: self.described().into_iter().map(|m| MachineEntry::of(m, word)).collect(),
        }
    }
}

fn wanted(document: &Document) -> Declared {
    let selectors = document.check().unwrap();
    let rules = document.rules.iter().zip(selectors);
    Declared {
        default: document.default.as_deref().map(target),
        rules: rules.map(|(r, s)| (r.name.clone(), s, target(&r.target))).collect(),
        machines: document.machines.iter().map(|m| (m.clone(), m.pin.as_deref().map(target))).collect(),
    }
}

fn documents() -> impl Strategy<Value = Document> {
    let targets = prop::sample::select(vec!["local", "ignore", "discover"]).prop_map(str::to_owned);
    let maybe = prop::option::of(targets.clone());
    let rule = (0_u8..5, prop::sample::select(vec!["rack=a1", "rack=b1", "all"]), targets.clone());
    let rules = prop::collection::vec(rule, 0..5);
    let machine =
        (0_u8..6, prop::option::of(0_u8..9), prop::option::of("[ab]1"), any::<bool>(), maybe.clone());
    let machines = prop::collection::vec(machine, 0..6);
    (maybe, rules, machines).prop_map(|(default, rules, machines)| {
        let mut document = Document { default, ..Document::default() };
        for (n, select, target) in rules {
            let name = format!("r{n}");
            if document.rules.iter().all(|r| r.name != name) {
                let select = select.to_owned();
                document.rules.push(crate::fleet::document::RuleEntry { name, select, target });
            }
        }
        for (n, hostname, rack, role, pin) in machines {
            let mac = Mac([2, 0, 0, 0, 0, n]);
            let hostname = hostname.map(|h| format!("h{h}"));
            if document
                .machines
                .iter()
                .any(|m| m.mac == mac || (hostname.is_some() && m.hostname == hostname))
            {
                continue;
            }
            let labels = role.then(|| ("role".to_owned(), "db".to_owned())).into_iter().collect();
            let other_macs = role.then(|| vec![Mac([2, 0, 0, 0, 1, n])]);
            document.machines.push(MachineEntry { mac, hostname, rack, labels, other_macs, nbp: None, pin });
        }
        document
    })
}

proptest! {
    /// Whatever was before: applied once it is so, applied twice nothing changes; and what is written out
    /// changes nothing, prunes nothing, and makes the same of an empty site.
    #[test]
    fn applying_makes_it_so_twice_changes_nothing_and_what_is_is_written_out(
        steps in prop::collection::vec((documents(), any::<bool>()), 1..6),
    ) {
        let mut state = State::default();
        for (now, (document, prune)) in (1_000..).step_by(1_000).zip(steps) {
            let Ok(batch) = declare(wanted(&document), &state, prune, now) else {
                // Somebody else has a hostname of it, and nothing was changed.
                continue;
            };
            state.apply(batch);
            let again = declare(wanted(&document), &state, prune, now + 500).unwrap();
            prop_assert!(again.is_empty(), "{again:?}");
            for entry in &document.machines {
                let is = MachineEntry::of(&state.machines[&entry.mac], word);
                prop_assert!(entry.other_macs.is_none() || is.other_macs == entry.other_macs);
                prop_assert_eq!(MachineEntry { other_macs: entry.other_macs.clone(), ..is }, entry.clone());
            }
            let written = state.document();
            if prune {
                let said = |document: &Document| {
                    let mut machines = document.machines.clone();
                    machines.retain(|m| !m.is_empty());
                    machines.iter_mut().for_each(|m| m.other_macs = None);
                    machines.sort_by_key(|m| m.mac);
                    Document { machines, ..document.clone() }
                };
                prop_assert_eq!(said(&written), said(&document), "with prune the document is all there is");
            }
            for prune in [false, true] {
                prop_assert!(declare(wanted(&written), &state, prune, now + 600).unwrap().is_empty());
            }
            let mut empty = State::default();
            empty.apply(declare(wanted(&written), &empty, false, 1).unwrap());
            prop_assert_eq!(empty.document(), written);
        }
    }
}

#[test]
fn a_rule_that_stands_behind_a_younger_one_becomes_younger_still() {
    let rule = |name: &str, created| SelectorRule {
        name: name.into(),
        selector: "all".into(),
        target: BootTarget::Local,
        created,
    };
    let mut state = State::default();
    for r in [rule("a", 10), rule("b", 20), rule("c", 30)] {
        state.rules.insert(r.name.clone(), r);
    }
    let order = |names: &[&str]| Declared {
        rules: names.iter().map(|n| (n.to_string(), "all".parse().unwrap(), BootTarget::Local)).collect(),
        ..Declared::default()
    };
    let changed = |names: &[&str]| -> Vec<(String, Millis)> {
        let batch = declare(order(names), &state, false, 40).unwrap();
        batch.rules.into_iter().map(|(name, rule)| (name, rule.unwrap().1.created)).collect()
    };
    assert_eq!(changed(&["a", "b", "c"]), []);
    assert_eq!(changed(&["b", "a", "c"]), [("a".to_owned(), 21)]);
    assert_eq!(changed(&["c", "a", "b"]), [("a".to_owned(), 31), ("b".to_owned(), 32)]);
    assert_eq!(changed(&["new", "a"]), [("new".to_owned(), 40), ("a".to_owned(), 41)]);
}

#[test]
fn a_machine_may_be_named_by_any_of_its_macs_and_keeps_those_that_are_not_spoken_of() {
    let mac = |n| Mac([2, 0, 0, 0, 0, n]);
    let mut state = State::default();
    let mut machine = Machine::new(mac(1), 0);
    machine.other_macs = vec![mac(2), mac(3)];
    state.machines.insert(mac(1), machine);
    for (named, others, then) in [
        (1, None, vec![2, 3]),
        (2, None, vec![2, 3]),
        (2, Some(vec![3]), vec![2, 3]),
        (2, Some(vec![1, 3]), vec![2, 3]),
        (3, Some(vec![]), vec![3]),
        (1, Some(vec![4]), vec![4]),
        (1, Some(vec![]), vec![]),
    ] {
        let other_macs = others.map(|others| others.into_iter().map(mac).collect());
        let entry = MachineEntry { rack: Some("a1".into()), other_macs, ..MachineEntry::bare(mac(named)) };
        let wanted = || Declared { machines: vec![(entry.clone(), None)], ..Declared::default() };
        state.apply(declare(wanted(), &state, false, 1).unwrap());
        assert_eq!(state.machines.len(), 1);
        assert_eq!(state.machines[&mac(1)].other_macs, then.into_iter().map(mac).collect::<Vec<_>>());
        assert!(declare(wanted(), &state, true, 2).unwrap().is_empty());
    }
}
