use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Peers that are told apart; beyond, those at rest are forgotten, then all.
const MAX_PEERS: usize = 4096;

/// A token bucket for each peer address.
#[derive(Debug)]
pub(super) struct Rate {
    burst: u32,
    /// Time in which one token comes back.
    refill: Duration,
    peers: Mutex<HashMap<Ipv4Addr, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Rate {
    pub(super) fn new(burst: u32, refill: Duration) -> Rate {
        Rate { burst, refill, peers: Mutex::default() }
    }

    /// Takes a token; false where none is left.
    pub(super) fn allows(&self, peer: Ipv4Addr, now: Instant) -> bool {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MAX_PEERS && !peers.contains_key(&peer) {
            let rest = self.refill * self.burst;
            peers.retain(|_, bucket| now.saturating_duration_since(bucket.since) < rest);
            if peers.len() >= MAX_PEERS {
                peers.clear();
            }
        }
        let bucket = peers.entry(peer).or_insert(Bucket { left: self.burst, since: now });
        let back = now.saturating_duration_since(bucket.since).as_nanos() / self.refill.as_nanos().max(1);
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        if back > 0 {
            bucket.left = bucket.left.saturating_add(back).min(self.burst);
            bucket.since = now;
        }
        let allowed = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_then_one_at_a_time_and_each_peer_by_itself() {
        let rate = Rate::new(3, Duration::from_millis(100));
        let (a, b) = (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2));
        let start = Instant::now();
        assert!((0..3).all(|_| rate.allows(a, start)));
        assert!(!rate.allows(a, start));
        assert!(rate.allows(b, start));
        let later = start + Duration::from_millis(110);
        assert!(rate.allows(a, later) && !rate.allows(a, later));
    }

    #[test]
    fn many_peers_take_no_more_memory() {
        let rate = Rate::new(3, Duration::from_millis(100));
        let start = Instant::now();
        for n in 0..20_000u32 {
            rate.allows(Ipv4Addr::from(n), start);
        }
        assert!(rate.peers.lock().is_ok_and(|peers| peers.len() <= MAX_PEERS));
    }
}
