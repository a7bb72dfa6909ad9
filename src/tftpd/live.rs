use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot};

/// Who has a transfer running: bounds how many, and tells a request that was sent again from one
/// that is new.
pub(super) struct Live {
    table: Mutex<Table>,
    emptied: Notify,
    max: usize,
    max_per_peer: usize,
}

#[derive(Default)]
struct Table {
    /// By our address and the client's address and port (the "TID" of RFC 1350).
    by_client: HashMap<(Ipv4Addr, SocketAddrV4), Entry>,
    per_peer: HashMap<Ipv4Addr, usize>,
    running: usize,
    next_id: u64,
}

struct Entry {
    id: u64,
    /// The request as it came, to know it again.
    request: Vec<u8>,
    /// Dropped or sent: the transfer has to end.
    cancel: oneshot::Sender<()>,
}

/// What becomes of a request.
pub(super) enum Admission {
    Go(Ticket),
    /// The same request is being served: it was sent twice, or our answer was lost (and our own
    /// timer will see to that).
    Repeated,
    Full,
}

/// The right to run one transfer; given back on drop.
pub(super) struct Ticket {
    live: Arc<Live>,
    key: (Ipv4Addr, SocketAddrV4),
    id: u64,
    /// Resolves when the transfer has to end.
    pub(super) cancelled: oneshot::Receiver<()>,
}

impl Live {
    pub(super) fn new(max: usize, max_per_peer: usize) -> Arc<Live> {
        Arc::new(Live { table: Mutex::default(), emptied: Notify::new(), max, max_per_peer })
    }

    /// A client that sends a different request from the same port has given up the first one
    /// (EDK2 after its size probe): that one is cancelled.
    pub(super) fn admit(self: &Arc<Live>, server: Ipv4Addr, peer: SocketAddrV4, request: &[u8]) -> Admission {
        let mut table = self.lock();
        let key = (server, peer);
        if table.by_client.get(&key).is_some_and(|entry| entry.request == request) {
            return Admission::Repeated;
        }
        let of_peer = table.per_peer.get(peer.ip()).copied().unwrap_or(0);
        if table.running >= self.max || of_peer >= self.max_per_peer {
            return Admission::Full;
        }
        table.running += 1;
        table.per_peer.insert(*peer.ip(), of_peer + 1);
        table.next_id += 1;
        let id = table.next_id;
        let (cancel, cancelled) = oneshot::channel();
        // The entry that this replaces, if any, is dropped: that cancels it.
        table.by_client.insert(key, Entry { id, request: request.to_vec(), cancel });
        Admission::Go(Ticket { live: Arc::clone(self), key, id, cancelled })
    }

    /// Tells every transfer to end.
    pub(super) fn cancel_all(&self) {
        for (_, entry) in self.lock().by_client.drain() {
            // Whoever is not there to hear it has ended.
            let _ = entry.cancel.send(());
        }
    }

    /// Resolves when no transfer runs.
    pub(super) async fn drained(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().running == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.live.lock();
        if table.by_client.get(&self.key).is_some_and(|entry| entry.id == self.id) {
            table.by_client.remove(&self.key);
        }
        let peer = *self.key.1.ip();
        if let Some(count) = table.per_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                table.per_peer.remove(&peer);
            }
        }
        table.running -= 1;
        if table.running == 0 {
            self.live.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn peer(host: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, host), port)
    }

    fn go(admission: Admission) -> Ticket {
        match admission {
            Admission::Go(ticket) => ticket,
            Admission::Repeated => panic!("repeated"),
            Admission::Full => panic!("full"),
        }
    }

    #[test]
    fn a_repeated_request_is_known_and_a_new_one_from_the_same_port_takes_over() {
        let live = Live::new(8, 8);
        let mut first = go(live.admit(SERVER, peer(1, 1000), b"a"));
        assert!(matches!(live.admit(SERVER, peer(1, 1000), b"a"), Admission::Repeated));
        assert!(first.cancelled.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        let second = go(live.admit(SERVER, peer(1, 1000), b"b"));
        assert!(first.cancelled.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        drop(first);
        assert!(matches!(live.admit(SERVER, peer(1, 1000), b"b"), Admission::Repeated));
        drop(second);
        go(live.admit(SERVER, peer(1, 1000), b"b"));
    }

    #[test]
    fn bounds_hold_for_one_peer_and_for_all_and_are_given_back() {
        let live = Live::new(3, 2);
        let one = go(live.admit(SERVER, peer(1, 1), b"a"));
        let _two = go(live.admit(SERVER, peer(1, 2), b"a"));
        assert!(matches!(live.admit(SERVER, peer(1, 3), b"a"), Admission::Full));
        let _three = go(live.admit(SERVER, peer(2, 1), b"a"));
        assert!(matches!(live.admit(SERVER, peer(3, 1), b"a"), Admission::Full));
        drop(one);
        go(live.admit(SERVER, peer(3, 1), b"a"));
    }
}
