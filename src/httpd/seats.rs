//! Who has to go where there is no room for one more connection: of those that wait for a request (none yet, half
//! of one, or the next one), the one that waits longest; sooner those whose client has other connections. Who is
//! being answered stays.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

/// Of those that wait longest, this many are looked at for one whose client has others.
const LOOKED_AT: usize = 64;

/// The connections that wait for a request, in the order of since when.
#[derive(Debug, Default)]
pub(super) struct Seats {
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    peer: IpAddr,
    go: Arc<Notify>,
}

/// One connection, as long as it lasts.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    peer: IpAddr,
    /// Its place among those that wait; 0 while it is being answered.
    place: AtomicU64,
    go: Arc<Notify>,
}

/// A request in work: its connection is not asked to go.
#[derive(Debug)]
pub(super) struct Busy(Arc<Seat>);

impl Seats {
    /// A new connection, which waits for its first request.
    pub(super) fn sit(self: &Arc<Seats>, peer: IpAddr) -> Arc<Seat> {
        let (seats, place) = (Arc::clone(self), AtomicU64::new(0));
        let seat = Arc::new(Seat { seats, peer, place, go: Arc::default() });
        seat.wait();
        seat
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one to go; never the one that came last, which had no time yet. `crowds`: whether a client has several
    /// connections.
    pub(super) fn make_room(&self, crowds: impl Fn(IpAddr) -> bool) -> bool {
        let mut waiting = self.waiting();
        if waiting.len() < 2 {
            return false;
        }
        let one = waiting.iter().take(LOOKED_AT.min(waiting.len() - 1)).find(|(_, one)| crowds(one.peer));
        let place = one.or_else(|| waiting.first_key_value()).map(|(place, _)| *place);
        let one = place.and_then(|place| waiting.remove(&place));
        one.inspect(|one| one.go.notify_one()).is_some()
    }
}

impl Seat {
    /// Resolves when it has to go.
    pub(super) async fn asked_to_go(&self) {
        self.go.notified().await;
    }

    /// Until the result is dropped.
    pub(super) fn busy(self: &Arc<Seat>) -> Busy {
        self.seats.waiting().remove(&self.place.swap(0, Ordering::AcqRel));
        Busy(Arc::clone(self))
    }

    fn wait(&self) {
        let place = self.seats.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiting = self.seats.waiting();
        waiting.remove(&self.place.swap(place, Ordering::AcqRel));
        waiting.insert(place, Waiting { peer: self.peer, go: Arc::clone(&self.go) });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.waiting().remove(self.place.get_mut());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(seat: &Seat) -> bool {
        use futures_util::FutureExt as _;
        seat.asked_to_go().now_or_never().is_some()
    }

    #[test]
    fn who_waits_longest_goes_and_who_is_answered_or_has_just_come_stays() {
        let seats = Arc::new(Seats::default());
        let at = |n| IpAddr::from([198, 18, 0, n]);
        let (first, second, third) = (seats.sit(at(1)), seats.sit(at(2)), seats.sit(at(3)));
        let busy = first.busy();
        assert!(seats.make_room(|_| false));
        assert!(told(&second) && !told(&first) && !told(&third));
        drop(second);
        assert!(!seats.make_room(|_| false), "the third has just come");
        drop(busy);
        let last = seats.sit(at(3));
        assert!(seats.make_room(|peer| peer == at(1)));
        assert!(told(&first) && !told(&third), "it has others, and waits for less time");
        assert!(seats.make_room(|_| false));
        assert!(told(&third) && !told(&last), "it waits longest");
        drop((first, third, last));
        assert!(seats.waiting().is_empty());
    }
}
