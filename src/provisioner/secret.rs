//! Operators' commands about secrets, and the one way to a secret's value. Durable like every other
//! command, see `command`. In memory secrets stay sealed.

use super::{
    CommandError, Provisioner, audit,
    command::whole,
    rule::check_name,
    state::{Effects, State},
};
use crate::model::{
    Change, SealedSecret, Secret,
    audit::By,
    nearest,
    wire::{Alarm, SecretView},
};

/// Largest value of a secret, in bytes.
pub const MAX_SECRET: usize = 32 * 1024;
/// Secrets on record.
const MAX_SECRETS: usize = 100_000;
/// Bytes of all values together.
const MAX_TOTAL: usize = 64 << 20;

impl Provisioner {
    /// Every secret, by name, without values.
    pub fn secrets(&self) -> Vec<SecretView> {
        let key = self.0.vault.key_id().ok().flatten();
        let view = |s: &SealedSecret| SecretView {
            name: s.name.clone(),
            bytes: s.bytes,
            changed: s.changed,
            readable: key.as_ref() == Some(&s.key),
        };
        self.state().secrets.values().map(view).collect()
    }

    /// Sets a secret; one of that name is replaced.
    pub async fn set_secret(&self, name: &str, value: Secret) -> Result<SecretView, CommandError> {
        check_name("a secret", name)?;
        check_size(name, &value)?;
        let (this, name) = (self.clone(), name.to_owned());
        whole(async move {
            let now = this.now();
            let on_record = {
                let state = this.state();
                let others = state.secrets.values().filter(|s| s.name != name);
                let (count, bytes) = others.fold((0, 0), |(n, sum), s| (n + 1, sum + s.bytes));
                check_room(count, bytes + value.expose().len())?;
                !state.secrets.is_empty()
            };
            let (vault, sealed_as) = (this.0.vault.clone(), name.clone());
            let sealed =
                tokio::task::spawn_blocking(move || vault.seal(&sealed_as, &value, now, on_record)).await;
            let sealed = sealed.map_err(|e| CommandError::Store(e.to_string()))??;
            let view = SecretView { name: name.clone(), bytes: sealed.bytes, changed: now, readable: true };
            this.put_secret(name, Some(sealed)).await?;
            Ok(view)
        })
        .await
    }

    /// Removes a secret that no machine's power settings name.
    pub async fn remove_secret(&self, name: &str) -> Result<(), CommandError> {
        let (this, name) = (self.clone(), name.to_owned());
        whole(async move {
            this.sealed(&name)?;
            if let Some(user) = this.state().machines.iter_known().find(|m| m.power.secret() == Some(&name)) {
                return Err(CommandError::Conflict(format!(
                    "{} needs secret {name} for its power: change that first with `pristine power set`",
                    user.name()
                )));
            }
            this.put_secret(name, None).await
        })
        .await
    }

    /// A secret's value, for the one whom it is meant for. Reads the key's file.
    pub async fn secret(&self, name: &str) -> Result<Secret, CommandError> {
        let (sealed, vault) = (self.sealed(name)?, self.0.vault.clone());
        let opened = tokio::task::spawn_blocking(move || vault.open(&sealed)).await;
        Ok(opened.map_err(|e| CommandError::Store(e.to_string()))??)
    }

    /// That secrets can't be opened, where it is so.
    pub(super) fn secrets_alarm(&self) -> Option<Alarm> {
        let first = self.state().secrets.values().next().cloned()?;
        let why = match self.0.vault.key_id() {
            Err(why) => why,
            Ok(None) => self.0.vault.open(&first).err()?,
            Ok(Some(key)) => {
                let other = self.state().secrets.values().find(|s| s.key != key).cloned()?;
                self.0.vault.open(&other).err()?
            }
        };
        Some(Alarm { about: "secrets".to_owned(), text: why.to_string(), since: first.changed })
    }

    fn sealed(&self, name: &str) -> Result<SealedSecret, CommandError> {
        let state = self.state();
        state.secrets.get(name).cloned().ok_or_else(|| CommandError::NoSecret {
            nearest: nearest(name, state.secrets.keys().map(String::as_str))
                .map(str::to_owned)
                .into_iter()
                .collect(),
            name: name.chars().take(80).collect(),
        })
    }

    /// Puts a record in the place of the one of that name, or takes that away. What could not be written
    /// is taken back, unless it has changed since.
    async fn put_secret(&self, name: String, record: Option<SealedSecret>) -> Result<(), CommandError> {
        let swap = |state: &mut State, to: Option<SealedSecret>, fx: &mut Effects| {
            fx.notes.push(audit::of_secret(&name, state.secrets.get(&name), to.as_ref()));
            let (before, change) = match to {
                Some(sealed) => (state.secrets.insert(name.clone(), sealed.clone()), Change::Secret(sealed)),
                None => (state.secrets.remove(&name), Change::SecretGone(name.clone())),
            };
            fx.changes.push(change);
            before
        };
        let (before, commit) = {
            let (mut locked, mut fx) = (self.state(), Effects::default());
            let before = swap(&mut locked, record.clone(), &mut fx);
            (before, self.hand_on(&locked, fx))
        };
        let Err(error) = self.order_saved(commit).await else { return Ok(()) };
        let (mut locked, mut fx) = (self.state(), Effects::default());
        if locked.secrets.get(&name) == record.as_ref() {
            swap(&mut locked, before, &mut fx);
            drop(self.by(By::undoing()).hand_on(&locked, fx));
        }
        Err(error.into())
    }
}

fn check_size(name: &str, value: &Secret) -> Result<(), CommandError> {
    match value.expose().len() {
        0 => Err(CommandError::Bad(format!("the value of {name} is empty: nothing was changed"))),
        1..=MAX_SECRET => Ok(()),
        n => Err(CommandError::Bad(format!(
            "the value of {name} has {n} bytes, and a secret has at most {MAX_SECRET}: nothing was changed"
        ))),
    }
}

/// `others` secrets beside this one, `bytes` with it.
fn check_room(others: usize, bytes: usize) -> Result<(), CommandError> {
    if others < MAX_SECRETS && bytes <= MAX_TOTAL {
        return Ok(());
    }
    Err(CommandError::Conflict(format!(
        "there are {others} secrets of {bytes} bytes with this one, and {MAX_SECRETS} of {MAX_TOTAL} bytes fit: remove some with \
         `pristine secret rm`"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::provisioner::{Options, tests::World};

    fn value(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_secret_outlives_a_restart_and_its_value_is_nowhere_on_disk() {
        let w = World::new(Options::default());
        let view = w.prov.set_secret("bmc-a1", value("root:hunter2hunter2")).await.unwrap();
        assert_eq!((view.bytes, view.readable), (19, true));
        let w = w.restart();
        assert_eq!(w.prov.secrets(), [view]);
        assert_eq!(w.prov.secret("bmc-a1").await.unwrap(), value("root:hunter2hunter2"));
        assert_eq!(w.prov.secrets_alarm(), None);
        for file in std::fs::read_dir(w.state_dir()).unwrap().map(|f| f.unwrap().path()) {
            let bytes = std::fs::read(&file).unwrap_or_default();
            assert!(!bytes.windows(7).any(|w| w == b"hunter2"), "{}", file.display());
        }
        w.prov.set_secret("bmc-a1", value("new")).await.unwrap();
        assert_eq!(w.prov.secret("bmc-a1").await.unwrap(), value("new"));
        w.prov.remove_secret("bmc-a1").await.unwrap();
        assert!(w.restart().prov.secrets().is_empty());
    }

    #[tokio::test]
    async fn a_lost_key_is_an_alarm_and_no_secret_is_sealed_beside_it() {
        let w = World::new(Options::default());
        w.prov.set_secret("a", value("x")).await.unwrap();
        std::fs::remove_file(w.state_dir().join(crate::provisioner::SECRETS_KEY)).unwrap();
        let w = w.restart();
        for said in [
            w.prov.secret("a").await.unwrap_err().to_string(),
            w.prov.set_secret("b", value("x")).await.unwrap_err().to_string(),
            w.prov.alarms()[0].text.clone(),
        ] {
            assert!(said.contains("is missing") && said.contains("pristine secret rm"), "{said}");
        }
        assert!(!w.prov.secrets()[0].readable);
        w.prov.remove_secret("a").await.unwrap();
        w.prov.set_secret("b", value("x")).await.unwrap();
        assert_eq!((w.prov.secret("b").await.unwrap(), w.prov.alarms().len()), (value("x"), 0));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_secret_is_said_and_changes_nothing() {
        let w = World::new(Options::default());
        for (name, value, part) in [
            ("a b", value("x"), "can't be the name of a secret"),
            ("a", value(""), "is empty"),
            ("a", Secret::new(vec![b'x'; MAX_SECRET + 1]), "at most 32768"),
        ] {
            let said = w.prov.set_secret(name, value).await.unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
        assert!(w.prov.secrets().is_empty());
        assert!(!w.state_dir().join(crate::provisioner::SECRETS_KEY).exists(), "no key before it is needed");
        w.prov.set_secret("bmc-a1", Secret::new(vec![b'x'; MAX_SECRET])).await.unwrap();
        let said = w.prov.secret("bmc-a2").await.unwrap_err().to_string();
        assert!(said.contains("no secret `bmc-a2`; near it: bmc-a1"), "{said}");
        assert!(check_room(MAX_SECRETS, 1).is_err() && check_room(0, MAX_TOTAL + 1).is_err());
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_taken_back() {
        let w = World::new(Options::default());
        w.prov.set_secret("a", value("old")).await.unwrap();
        w.prov.db().limit_pages(0);
        assert!(matches!(w.prov.set_secret("a", value("new")).await, Err(CommandError::NotSaved(_))));
        assert!(matches!(w.prov.set_secret("b", value("new")).await, Err(CommandError::NotSaved(_))));
        assert!(matches!(w.prov.remove_secret("a").await, Err(CommandError::NotSaved(_))));
        w.prov.db().limit_pages(1_000_000);
        assert_eq!(w.prov.secret("a").await.unwrap(), value("old"));
        assert_eq!(w.restart().prov.secrets().len(), 1);
    }
}
