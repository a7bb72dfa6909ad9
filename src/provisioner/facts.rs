//! What a machine's `init` says the machine is made of.

use super::{Provisioner, ReportError, report::alive, state::Effects};
use crate::model::Facts;

impl Provisioner {
    /// A machine tells its facts, with its boot's token, as often as it likes while that boot goes on. They
    /// are on disk, and count for selectors, when this returns.
    pub async fn facts(&self, token: &str, facts: Facts) -> Result<(), ReportError> {
        let commit =
            self.facts_locked(token, facts).inspect_err(|_| self.state().stats.reports_refused += 1)?;
        Ok(commit.await?)
    }

    fn facts_locked(&self, token: &str, facts: Facts) -> Result<crate::store::db::Commit, ReportError> {
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        let tracked = state.attempts.by_token(token).ok_or(ReportError::UnknownToken)?;
        alive(&tracked.attempt, now).map_err(ReportError::DeadToken)?;
        let Some(mut machine) = state.machines.get(tracked.attempt.mac).cloned() else {
            return Err(ReportError::UnknownToken);
        };
        let target = state.target_of(&machine);
        let mut facts = facts.tidied(now);
        if let Some(before) = &machine.facts {
            facts = facts.and_before(before);
        }
        if facts.serial.is_some() {
            machine.serial.clone_from(&facts.serial);
        }
        let product: Vec<&str> =
            [&facts.vendor, &facts.product].into_iter().flatten().map(String::as_str).collect();
        if !product.is_empty() {
            machine.product = Some(product.join(" "));
        }
        if let (None, Some(uuid)) = (&machine.uuid, &facts.uuid) {
            let hex: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
            machine.uuid = Some(hex.to_ascii_lowercase()).filter(|hex| hex.len() == 32);
        }
        machine.facts = Some(facts.into());
        machine.last_seen = now;
        // A rule may pick it by what it is.
        machine.generation += u64::from(state.target_of(&machine) != target);
        state.put(machine, &mut fx);
        Ok(self.hand_on(&locked, fx))
    }
}
