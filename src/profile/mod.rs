//! Profiles: what machines get besides their image. Pure: documents, machines and images in, a machine's configuration out.
//!
//! | file | idea |
//! |---|---|
//! | `document` | the TOML that an operator writes |
//! | `check` | names, paths, modes and addresses that can be |
//! | `template` | texts with facts of a machine put in; the facts |
//! | `render` | several documents become one machine's configuration |
//! | `network`, `volume` | a network as a file of systemd-networkd; disks that outlive a boot |

mod check;
mod document;
mod network;
mod render;
mod template;
#[cfg(test)]
mod tests;
mod volume;

pub use document::Document;
pub use render::{Configured, render};
pub use template::{Secrets, Values};

use crate::{
    fleet::Selector,
    model::{Machine, ProfileRecord},
};
use std::{cmp::Reverse, fmt, sync::Arc};

/// Longest document, in bytes.
pub const MAX_DOCUMENT: usize = 1 << 20;
/// Most profiles of one site.
pub const MAX_PROFILES: usize = 256;

/// What is wrong with a profile, or with what it becomes for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which profile.
    pub profile: String,
    /// Where in it, as in `file /etc/motd, template`.
    pub place: String,
    /// Line of the template, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "profile {}", self.profile)?;
        if !self.place.is_empty() {
            write!(f, ", {}", self.place)?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Problem {}

/// A profile whose document was read and checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// As the store has it.
    pub record: ProfileRecord,
    selector: Selector,
    document: Document,
}

impl Profile {
    /// Reads and checks a record.
    ///
    /// # Errors
    /// The selector or the document makes no sense, in words that name the place.
    pub fn new(record: ProfileRecord) -> Result<Profile, String> {
        let selector = record.selector.parse::<Selector>().map_err(|e| e.to_string())?;
        let document = Document::parse(&record.name, &record.document)?;
        render::check(&record.name, &document).map_err(|problem| problem.to_string())?;
        Ok(Profile { record: ProfileRecord { selector: selector.to_string(), ..record }, selector, document })
    }

    /// Whether it is for this machine.
    pub fn picks(&self, machine: &Machine) -> bool {
        self.selector.picks(machine)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }
}

/// The site's profiles: of those that pick a machine, the one with the most conditions counts most, then the oldest, then the
/// first by name.
#[derive(Debug, Default)]
pub struct Profiles(Vec<Arc<Profile>>);

impl Profiles {
    /// The profiles as the store had them.
    ///
    /// # Errors
    /// One that this program can't read, in words: to leave it out would change machines.
    pub fn new(stored: Vec<ProfileRecord>) -> Result<Profiles, String> {
        let mut profiles = Profiles::default();
        for record in stored {
            let name = record.name.clone();
            profiles.put(Arc::new(Profile::new(record).map_err(|why| format!("profile {name}: {why}"))?));
        }
        Ok(profiles)
    }

    /// Those that pick a machine, the one that counts most first.
    pub fn of(&self, machine: &Machine) -> Vec<Arc<Profile>> {
        self.0.iter().filter(|p| p.picks(machine)).cloned().collect()
    }

    /// One by name.
    pub fn get(&self, name: &str) -> Option<&Arc<Profile>> {
        self.0.iter().find(|p| p.name() == name)
    }

    /// Inserts or replaces.
    pub fn put(&mut self, profile: Arc<Profile>) {
        self.remove(profile.name());
        self.0.push(profile);
        self.0.sort_by_cached_key(|p| {
            (Reverse(p.selector.specificity()), p.record.created, p.record.name.clone())
        });
    }

    /// Inserts or replaces, where there is one.
    pub fn extend(&mut self, profile: Option<Arc<Profile>>) {
        profile.into_iter().for_each(|p| self.put(p));
    }

    /// Takes one away.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Profile>> {
        let at = self.0.iter().position(|p| p.name() == name)?;
        Some(self.0.remove(at))
    }

    /// The one that counts most first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
