//! What happens because nothing happens.

use super::{Provisioner, answer::is_touched, attempts, state::Effects};
use crate::{
    model::{Mac, Millis, audit::By},
    netboot::likely_cause,
};
use std::time::Duration;
use tokio::sync::watch;

/// A machine on record that no operator touched, that never got a script and that was not heard of
/// for this long was a visitor: it is forgotten.
const VISITOR: Millis = 7 * 24 * 3_600 * 1_000;

/// Boots that get stuck in one second and are logged one by one: a flood of made-up MACs must not fill
/// the log.
const LOGGED: usize = 20;

impl Provisioner {
    /// Ticks once a second until `shutdown` says true or its sender is gone.
    pub async fn run_ticker(self, mut shutdown: watch::Receiver<bool>) {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks: u64 = 0;
        loop {
            tokio::select! {
                _ = every.tick() => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            self.tick();
            tokio::spawn(self.clone().order_reboots());
            if ticks.is_multiple_of(10) {
                let service = self.clone();
                tokio::task::spawn_blocking(move || {
                    service.0.images.blobs().cool();
                    service.0.vouching.keep_time(service.now());
                });
            }
            if ticks.is_multiple_of(3_600) {
                self.forget_visitors();
            }
            ticks = ticks.wrapping_add(1);
        }
    }

    /// Marks the attempts that are stuck by now, and lets rollouts go on.
    pub fn tick(&self) {
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        for id in state.attempts.running() {
            state.update(id, &mut fx, |t| {
                let native = t.seen == attempts::Seen::Reports;
                attempts::check(&mut t.attempt, t.moved, t.seen, now, &|a| likely_cause(a, native))
            });
        }
        for attempt in fx.events.iter().take(LOGGED) {
            tracing::warn!(mac = %attempt.mac, stage = ?attempt.reached(), "boot is stuck");
        }
        if let Some(more @ 1..) = fx.events.len().checked_sub(LOGGED) {
            tracing::warn!(more, "boots are stuck: see `pristine boots`");
        }
        state.roll(now, &mut fx);
        // An operator's order may have been what made it tick.
        drop(self.by(By::service()).hand_on(&locked, fx));
    }

    /// Forgets machines that only passed by, so that they don't fill the table for good.
    pub fn forget_visitors(&self) {
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        let gone: Vec<Mac> = state
            .machines
            .iter_known()
            .filter(|m| !is_touched(m) && m.running.is_none() && m.last_healthy.is_none())
            .filter(|m| now.saturating_sub(m.last_seen) >= VISITOR)
            .map(|m| m.mac)
            .collect();
        for mac in gone {
            state.forget(mac, &mut fx);
        }
        drop(self.hand_on(&locked, fx));
    }
}
