//! The site's selector rules, in the order in which they are asked. Pure.

use crate::{
    fleet::Selector,
    model::{Machine, SelectorRule},
};
use std::cmp::Reverse;

/// Most rules of one site: each is looked at for every packet of a machine without a pin.
pub(super) const MAX_RULES: usize = 256;

#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<(Selector, SelectorRule)>);

impl Rules {
    /// No rule.
    pub const fn none() -> Rules {
        Rules(Vec::new())
    }

    /// The rules as the store had them.
    ///
    /// # Errors
    /// One that this program can't read, in words: to leave it out would re-point machines.
    pub fn new(stored: Vec<SelectorRule>) -> Result<Rules, String> {
        let mut rules = Rules::default();
        for rule in stored {
            let selector = rule.selector.parse().map_err(|e| format!("rule {}: {e}", rule.name))?;
            rules.put(selector, rule);
        }
        Ok(rules)
    }

    /// The rule that a machine gets its target from: of those that pick it the one with the most
    /// conditions, then the oldest, then the first by name.
    pub fn first_for(&self, machine: &Machine) -> Option<&SelectorRule> {
        self.0.iter().find(|(selector, _)| selector.picks(machine)).map(|(_, rule)| rule)
    }

    pub fn get(&self, name: &str) -> Option<&SelectorRule> {
        self.iter().find(|rule| rule.name == name)
    }

    /// Inserts or replaces; `selector` is what `rule.selector` says.
    pub fn put(&mut self, selector: Selector, rule: SelectorRule) {
        self.remove(&rule.name);
        self.0.push((selector, rule));
        self.0.sort_by_cached_key(|(selector, rule)| {
            (Reverse(selector.specificity()), rule.created, rule.name.clone())
        });
    }

    pub fn remove(&mut self, name: &str) -> Option<(Selector, SelectorRule)> {
        let at = self.0.iter().position(|(_, rule)| rule.name == name)?;
        Some(self.0.remove(at))
    }

    /// In the order in which they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &SelectorRule> {
        self.0.iter().map(|(_, rule)| rule)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::model::{BootTarget, Mac};

    pub(in crate::provisioner) fn rule(name: &str, selector: &str, created: i64) -> SelectorRule {
        SelectorRule { name: name.into(), selector: selector.into(), target: BootTarget::Local, created }
    }

    #[test]
    fn the_rule_with_most_conditions_goes_first_then_the_oldest() {
        let rules = Rules::new(vec![
            rule("all", "all", 1),
            rule("younger", "rack=a1", 9),
            rule("older", "rack in (a1, a2)", 5),
            rule("both", "rack=a1 and label.role=db", 20),
        ])
        .unwrap();
        let order: Vec<&str> = rules.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(order, ["both", "older", "younger", "all"]);
        let mut m = Machine::new(Mac([2, 0, 0, 0, 0, 1]), 0);
        assert_eq!(rules.first_for(&m).unwrap().name, "all");
        m.rack = Some("a1".into());
        assert_eq!(rules.first_for(&m).unwrap().name, "older");
        m.labels.insert("role".into(), "db".into());
        assert_eq!(rules.first_for(&m).unwrap().name, "both");
    }

    #[test]
    fn a_rule_that_can_not_be_read_is_an_error_not_a_rule_less() {
        let e = Rules::new(vec![rule("new", "rack ~ x", 0)]).unwrap_err();
        assert!(e.starts_with("rule new: selector, column 6"), "{e}");
    }
}
