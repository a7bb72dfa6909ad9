//! Operators' commands about selector rules. Durable like every other command, see `command`.

use super::{CommandError, Provisioner, command::whole, rules::MAX_RULES, state::Effects};
use crate::{
    fleet::{MAX_NAME, Selector, is_plain_name},
    model::{Change, Machine, SelectorRule, audit::By, wire::RuleView},
    store::db::Commit,
};

impl Provisioner {
    /// The machines that a selector picks, by MAC.
    pub fn selected(&self, selector: &str) -> Result<Vec<Machine>, CommandError> {
        let selector = parse(selector)?;
        Ok(self.machines().into_iter().filter(|m| selector.picks(m)).collect())
    }

    /// The selector rules, in the order in which they are asked.
    pub fn rules(&self) -> Vec<RuleView> {
        let rules: Vec<SelectorRule> = self.state().rules.iter().cloned().collect();
        rules.into_iter().map(|rule| self.rule_view(rule)).collect()
    }

    /// Sets what the machines that `selector` picks boot, to what `reference` means now (see
    /// [`Provisioner::pin`]). A rule of that name is replaced, and keeps its age.
    pub async fn set_rule(
        &self,
        name: &str,
        selector: &str,
        reference: &str,
    ) -> Result<RuleView, CommandError> {
        let (this, name, reference) = (self.clone(), name.to_owned(), reference.to_owned());
        check_name("a rule", &name)?;
        let selector = parse(selector)?;
        whole(async move {
            let (target, _, _guard) = this.target(reference).await?;
            let (rule, before, commit) = {
                let now = this.now();
                let mut locked = this.state();
                let before = locked.rules.get(&name).cloned();
                if before.is_none() && locked.rules.len() >= MAX_RULES {
                    return Err(CommandError::Bad(format!(
                        "there are {MAX_RULES} rules, and no more fit: remove one, or let one selector stand for several"
                    )));
                }
                let created = before.as_ref().map_or(now, |b| b.created);
                let rule = SelectorRule { name, selector: selector.to_string(), target, created };
                let mut fx = Effects::default();
                if before.as_ref() != Some(&rule) {
                    let new = rule.clone();
                    locked.repoint(Change::Rule(rule.clone()), &mut fx, |state| state.rules.put(selector, new));
                }
                (rule, before, this.hand_on(&locked, fx))
            };
            this.settle(&rule.name, Some(&rule), before, commit).await?;
            Ok(this.rule_view(rule))
        })
        .await
    }

    /// Removes a selector rule.
    pub async fn remove_rule(&self, name: &str) -> Result<(), CommandError> {
        let (this, name) = (self.clone(), name.to_owned());
        whole(async move {
            let (before, commit) = {
                let mut locked = this.state();
                let Some(before) = locked.rules.get(&name).cloned() else {
                    let near = crate::model::nearest(&name, locked.rules.iter().map(|r| r.name.as_str()));
                    return Err(CommandError::NoRule {
                        nearest: near.map(str::to_owned).into_iter().collect(),
                        name: name.chars().take(80).collect(),
                    });
                };
                let mut fx = Effects::default();
                locked.repoint(Change::RuleGone(name.clone()), &mut fx, |state| {
                    state.rules.remove(&name);
                });
                (before, this.hand_on(&locked, fx))
            };
            this.settle(&name, None, Some(before), commit).await
        })
        .await
    }

    /// Waits for the disk. What could not be written is taken back, unless the rule has changed since.
    async fn settle(
        &self,
        name: &str,
        after: Option<&SelectorRule>,
        before: Option<SelectorRule>,
        commit: Commit,
    ) -> Result<(), CommandError> {
        let Err(error) = self.order_saved(commit).await else { return Ok(()) };
        let mut locked = self.state();
        if locked.rules.get(name) == after {
            let mut fx = Effects::default();
            match before.map(|b| (b.selector.parse::<Selector>(), b)) {
                Some((Ok(selector), before)) => {
                    let change = Change::Rule(before.clone());
                    locked.repoint(change, &mut fx, |state| state.rules.put(selector, before));
                }
                _ => locked.repoint(Change::RuleGone(name.to_owned()), &mut fx, |state| {
                    state.rules.remove(name);
                }),
            }
            drop(self.by(By::undoing()).hand_on(&locked, fx));
        }
        Err(error.into())
    }

    fn rule_view(&self, rule: SelectorRule) -> RuleView {
        let pinned = self.described(rule.target.clone());
        let state = self.state();
        let machines = state.machines.iter().filter(|m| m.pin.is_none() && m.moved.is_none());
        let machines = machines.filter(|m| state.rules.first_for(m).is_some_and(|r| r.name == rule.name));
        RuleView { machines: machines.count(), image: pinned.image, rule }
    }
}

pub(super) fn parse(selector: &str) -> Result<Selector, CommandError> {
    selector.parse().map_err(|e: crate::fleet::SelectorError| CommandError::Bad(e.to_string()))
}

/// A name that paths, lists and shells take as it is; `what` says of what, as in `a rule`.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), CommandError> {
    if is_plain_name(name) {
        return Ok(());
    }
    let name = name.escape_default().to_string().chars().take(80).collect::<String>();
    Err(CommandError::Bad(format!(
        "`{name}` can't be the name of {what}: write 1 to {MAX_NAME} of a-z, A-Z, 0-9 and `._-`"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use crate::{
        model::{Arch, BootTarget, Rule},
        provisioner::{CommandError, MachinePatch, Options, Provisioner, TestClock, tests::World},
        store::{Nbps, testing::TempDir},
    };
    use std::sync::Arc;

    const A: &str = "52:54:00:00:00:01";
    const B: &str = "52:54:00:00:00:02";

    fn in_rack(rack: &str) -> MachinePatch {
        MachinePatch { rack: Some(Some(rack.into())), ..MachinePatch::default() }
    }

    #[tokio::test]
    async fn a_rule_holds_a_digest_outlives_a_restart_and_re_points_only_what_it_picks() {
        let w = World::new(Options::default());
        let web = w.import("web:1", Arch::X86_64, true);
        w.prov.set_machine(A, in_rack("a1")).await.unwrap();
        w.prov.set_machine(B, in_rack("b1")).await.unwrap();
        let before = [A, B].map(|m| w.prov.machine(m).unwrap().generation);
        let rule = w.prov.set_rule("racks", "rack=a1", "web:1").await.unwrap();
        assert_eq!((rule.machines, rule.image.unwrap().to_string()), (1, "web:1".to_owned()));
        assert_eq!(rule.rule.target, BootTarget::Image { digest: web });
        let after = [A, B].map(|m| w.prov.machine(m).unwrap().generation);
        assert_eq!(after, [before[0] + 1, before[1]], "only what boots something else now");

        let w = w.restart();
        let got = w.prov.explain(A).unwrap();
        assert_eq!((got.rule, got.image.unwrap().to_string()), (Rule::Selector, "web:1".to_owned()));
        w.prov.set_machine(B, in_rack("a1")).await.unwrap();
        assert_eq!(w.prov.explain(B).unwrap().rule, Rule::Selector, "its new rack brings it under the rule");
        assert_eq!(w.prov.machine(B).unwrap().generation, before[1] + 1);
        w.prov.pin(B, "local").await.unwrap();
        assert_eq!((w.prov.explain(B).unwrap().rule, w.prov.rules()[0].machines), (Rule::Pin, 1));

        w.prov.remove_rule("racks").await.unwrap();
        assert_eq!(w.restart().prov.explain(A).unwrap().rule, Rule::Unknown);
    }

    #[tokio::test]
    async fn a_rule_that_can_t_be_read_refuses_the_start_and_changes_nothing() {
        let w = World::new(Options::default());
        w.prov.set_rule("racks", "rack=a1", "local").await.unwrap();
        // What a kill leaves, and a newer program wrote.
        let killed = TempDir::new();
        let files = || ["pristine.db", "pristine.db-wal"].map(|name| killed.path().join(name));
        for file in files() {
            std::fs::copy(w.state_dir().join(file.file_name().unwrap()), file).unwrap();
        }
        let bytes = || files().map(|file| std::fs::read(file).ok());
        let conn = rusqlite::Connection::open(&files()[0]).unwrap();
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        conn.execute("UPDATE rules SET body = replace(body, 'rack=a1', 'rack~a1')", []).unwrap();
        drop(conn);
        let before = bytes();
        let (images, nbps) = (w.prov.images().clone(), Nbps::load(killed.path()).unwrap());
        let clock = Arc::new(TestClock::at(1));
        let refused = Provisioner::open(Options::default(), killed.path(), images, nbps, clock);
        let said = refused.err().expect("a refused start").to_string();
        assert!(said.contains("racks") && said.contains("newer program"), "{said}");
        assert!(bytes() == before, "a refused start changed it");
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_rule_is_said_and_changes_nothing() {
        let w = World::new(Options::default());
        w.import("web:1", Arch::X86_64, true);
        for (name, selector, target, part) in [
            ("r", "rack=", "local", "column 6"),
            ("r", "rack=a1", "web:9", "did you mean web:1?"),
            ("a b", "rack=a1", "local", "can't be the name of a rule"),
            ("", "rack=a1", "local", "can't be the name of a rule"),
        ] {
            let said = w.prov.set_rule(name, selector, target).await.unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
        assert!(w.prov.rules().is_empty());
        assert!(matches!(w.prov.remove_rule("r").await, Err(CommandError::NoRule { .. })));
    }
}
