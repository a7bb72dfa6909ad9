//! The boot attempts in memory, bounded, and found by machine, token and address.

use super::{
    Bounds,
    attempts::{Latest, Seen},
};
use crate::model::{AttemptId, BootAttempt, Change, Digest, Mac, Millis, Verdict};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
};

/// An attempt and what is not worth keeping on disk.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub attempt: BootAttempt,
    /// Latest packet of its machine.
    pub heard: Millis,
    /// Latest progress.
    pub moved: Millis,
    /// When it began: its place in the order of all, with a number that the table sets to tell those
    /// of one millisecond apart.
    pub began: (Millis, u64),
    /// Firmware began it, not an iPXE ROM.
    pub by_firmware: bool,
    /// How far its image can be followed.
    pub seen: Seen,
    /// When its agent asked for orders last.
    pub asked: Option<Millis>,
    /// On disk, too. Attempts of strangers are not.
    pub kept: bool,
}

#[derive(Debug)]
pub(super) struct Attempts {
    bounds: Bounds,
    all: BTreeMap<AttemptId, Tracked>,
    /// Of one machine, oldest first.
    by_mac: BTreeMap<Mac, VecDeque<AttemptId>>,
    by_token: BTreeMap<Digest, AttemptId>,
    by_addr: BTreeMap<Ipv4Addr, AttemptId>,
    by_age: BTreeSet<((Millis, u64), AttemptId)>,
    added: u64,
    /// Those that may still become stuck.
    running: BTreeSet<AttemptId>,
}

impl Attempts {
    pub fn new(bounds: Bounds) -> Attempts {
        Attempts {
            bounds,
            all: BTreeMap::new(),
            by_mac: BTreeMap::new(),
            by_token: BTreeMap::new(),
            by_addr: BTreeMap::new(),
            by_age: BTreeSet::new(),
            added: 0,
            running: BTreeSet::new(),
        }
    }

    /// Puts back what the store remembers, oldest first. Returns what fell out of the bounds.
    pub fn restore(
        &mut self,
        attempts: Vec<BootAttempt>,
        now: Millis,
        seen: impl Fn(Digest) -> Option<Seen>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for attempt in attempts {
            let last = attempt.stages.last().map_or(now, |s| s.at);
            let running = attempt.verdict == Verdict::Running;
            let tracked = Tracked {
                heard: last,
                began: (attempt.began().unwrap_or(last), 0),
                // The service was away: what happened meanwhile is not known, so time starts anew.
                moved: if running { now } else { last },
                by_firmware: attempt.firmware.is_some(),
                seen: attempt
                    .image
                    .or(attempt.waits_with)
                    .filter(|_| running)
                    .and_then(&seen)
                    .unwrap_or(Seen::Loads),
                asked: None,
                kept: true,
                attempt,
            };
            changes.extend(self.add(tracked));
        }
        changes
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds a machine's newest attempt. Returns the changes for those that it pushed out.
    pub fn add(&mut self, mut tracked: Tracked) -> Vec<Change> {
        self.added += 1;
        tracked.began.1 = self.added;
        let id = tracked.attempt.id;
        let mac = tracked.attempt.mac;
        self.by_age.insert((tracked.began, id));
        self.index(&tracked.attempt);
        self.all.insert(id, tracked);
        self.by_mac.entry(mac).or_default().push_back(id);
        let mut changes = Vec::new();
        if self.by_mac.get(&mac).is_some_and(|of| of.len() > self.bounds.attempts_per_machine.max(1)) {
            let oldest = self.by_mac.get(&mac).and_then(|of| of.front().copied());
            changes.extend(oldest.and_then(|oldest| self.remove(oldest)));
        }
        while self.all.len() > self.bounds.attempts.max(1) {
            let Some((_, oldest)) = self.by_age.first().copied() else { break };
            changes.extend(self.remove(oldest));
        }
        changes
    }

    fn index(&mut self, attempt: &BootAttempt) {
        if let Some(hash) = attempt.token_hash {
            self.by_token.insert(hash, attempt.id);
        }
        if let Some(addr) = attempt.addr {
            self.by_addr.insert(addr, attempt.id);
        }
        match attempt.verdict {
            Verdict::Running => self.running.insert(attempt.id),
            _ => self.running.remove(&attempt.id),
        };
    }

    fn unindex(&mut self, attempt: &BootAttempt) {
        if let Some(hash) = attempt.token_hash {
            self.by_token.remove(&hash);
        }
        if let Some(addr) = attempt.addr
            && self.by_addr.get(&addr) == Some(&attempt.id)
        {
            self.by_addr.remove(&addr);
        }
    }

    /// Changes an attempt. Returns its record, where `change` says that it did, for the store (if the
    /// attempt is kept there) and for those who watch.
    pub fn update(
        &mut self,
        id: AttemptId,
        change: impl FnOnce(&mut Tracked) -> bool,
    ) -> Option<(bool, BootAttempt)> {
        let tracked = self.all.get_mut(&id)?;
        let before = (tracked.attempt.token_hash, tracked.attempt.addr);
        if !change(tracked) {
            return None;
        }
        let (kept, attempt) = (tracked.kept, tracked.attempt.clone());
        if before != (attempt.token_hash, attempt.addr) {
            let mut old = BootAttempt::new(id, attempt.mac);
            (old.token_hash, old.addr) = before;
            self.unindex(&old);
        }
        self.index(&attempt);
        Some((kept, attempt))
    }

    pub fn get(&self, id: AttemptId) -> Option<&Tracked> {
        self.all.get(&id)
    }

    pub fn by_token(&self, token: &str) -> Option<&Tracked> {
        // Looked up by hash, so that how long it takes tells nothing of a token.
        self.by_token.get(&Digest::of(token.as_bytes())).and_then(|id| self.all.get(id))
    }

    pub fn by_addr(&self, addr: Ipv4Addr) -> Option<&Tracked> {
        self.by_addr.get(&addr).and_then(|id| self.all.get(id))
    }

    /// The newest attempt of a machine.
    pub fn latest(&self, mac: Mac) -> Option<&Tracked> {
        self.by_mac.get(&mac).and_then(|of| of.back()).and_then(|id| self.all.get(id))
    }

    /// A machine is on record now, and so are its attempts.
    pub fn keep(&mut self, mac: Mac) -> Vec<Change> {
        let ids = self.by_mac.get(&mac).cloned().unwrap_or_default();
        let mut changes = Vec::new();
        for id in ids {
            if let Some(tracked) = self.all.get_mut(&id).filter(|t| !t.kept) {
                tracked.kept = true;
                changes.push(Change::Attempt(tracked.attempt.clone()));
            }
        }
        changes
    }

    /// Forgets a machine's attempts.
    pub fn forget(&mut self, mac: Mac) -> Vec<Change> {
        let ids = self.by_mac.get(&mac).cloned().unwrap_or_default();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    fn remove(&mut self, id: AttemptId) -> Option<Change> {
        let gone = self.all.remove(&id)?;
        self.unindex(&gone.attempt);
        self.running.remove(&id);
        self.by_age.remove(&(gone.began, id));
        if let Some(of) = self.by_mac.get_mut(&gone.attempt.mac) {
            of.retain(|other| *other != id);
            if of.is_empty() {
                self.by_mac.remove(&gone.attempt.mac);
            }
        }
        gone.kept.then_some(Change::AttemptGone(id))
    }

    /// Those that may become stuck.
    pub fn running(&self) -> Vec<AttemptId> {
        self.running.iter().copied().collect()
    }

    /// Newest first.
    pub fn newest(&self, mac: Option<Mac>, limit: usize) -> Vec<BootAttempt> {
        let shown =
            |id: &AttemptId| self.all.get(id).map(|t| BootAttempt { token_hash: None, ..t.attempt.clone() });
        match mac {
            Some(mac) => {
                let of = self.by_mac.get(&mac);
                of.into_iter().flatten().rev().filter_map(shown).take(limit).collect()
            }
            None => self.by_age.iter().rev().filter_map(|(_, id)| shown(id)).take(limit).collect(),
        }
    }
}

impl Tracked {
    pub fn latest(&self) -> Latest<'_> {
        Latest { attempt: &self.attempt, heard: self.heard, by_firmware: self.by_firmware }
    }
}
