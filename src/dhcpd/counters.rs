//! What a link has seen, cheap to count and to show.

use super::OtherServer;
use crate::dhcp::{Malformed, Mode, Reason, ReplyKind};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of one link since the service started.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Count,)*
            /// Requests that are answered with silence, by reason.
            silent: Mutex<HashMap<Reason, u64>>,
            /// Datagrams that are no DHCP request, by reason.
            malformed: Mutex<HashMap<Malformed, u64>>,
        }

        impl Counters {
            fn plain(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.get()),)*])
            }
        }
    };
}

counters! {
    /// Datagrams on ports 67 and 4011.
    received,
    /// Dropped: too many unknown MACs at once.
    dropped_rate,
    /// Dropped: as many requests in work as may be.
    dropped_busy,
    /// Dropped: the same request is in work already.
    dropped_repeated,
    /// DHCPOFFERs sent.
    offers,
    /// DHCPACKs sent.
    acks,
    /// DHCPNAKs sent.
    naks,
    /// Replies that could not be sent.
    send_failed,
    /// Addresses asked about by ARP.
    probes,
    /// Of those, in use by somebody.
    probes_in_use,
    /// Requests that name another DHCP server as their choice.
    other_server,
    /// Router solicitations heard.
    solicitations,
    /// Router advertisements sent.
    advertisements,
    /// Times that the link was opened: after start, down and up, a change of address.
    opened,
}

/// One number that many tasks count up.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// So far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    /// A reply was sent.
    pub fn replied(&self, kind: ReplyKind) {
        match kind {
            ReplyKind::Offer => self.offers.add(),
            ReplyKind::Ack => self.acks.add(),
            ReplyKind::Nak => self.naks.add(),
        }
    }

    /// A request was answered with silence.
    pub fn silent(&self, reason: Reason) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// A datagram was no request.
    pub fn malformed(&self, why: Malformed) {
        *self.malformed.lock().unwrap_or_else(PoisonError::into_inner).entry(why).or_default() += 1;
    }
}

/// A link as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// Interface name.
    pub interface: String,
    /// What is answered on it.
    pub mode: Mode,
    /// Address that it is served from now; `None` while the interface is missing, down or without
    /// an address.
    pub serving: Option<Ipv4Addr>,
    /// Why not, in words.
    pub waiting_for: Option<String>,
    /// Requests in work now.
    pub in_work: usize,
    /// Other DHCP servers that answer on it, where none should.
    pub other_servers: Vec<OtherServer>,
    /// Plain counts by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Silence by reason.
    pub silent: BTreeMap<String, u64>,
    /// Malformed datagrams by reason.
    pub malformed: BTreeMap<String, u64>,
}

impl LinkStatus {
    pub(super) fn new(
        interface: &str,
        mode: Mode,
        state: Result<Ipv4Addr, String>,
        in_work: usize,
        counters: &Counters,
    ) -> LinkStatus {
        let silent = counters.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let malformed = counters.malformed.lock().unwrap_or_else(PoisonError::into_inner);
        LinkStatus {
            interface: interface.to_owned(),
            mode,
            serving: state.as_ref().ok().copied(),
            waiting_for: state.err(),
            in_work,
            other_servers: Vec::new(),
            counts: counters.plain(),
            silent: silent.iter().map(|(k, v)| (k.to_string(), *v)).collect(),
            malformed: malformed.iter().map(|(k, v)| (k.to_string(), *v)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_status_names_what_was_counted() {
        let counters = Counters::default();
        counters.replied(ReplyKind::Ack);
        counters.silent(Reason::PoolExhausted);
        counters.malformed(Malformed::TooShort);
        let status = LinkStatus::new("eth1", Mode::Full, Err("is down".to_owned()), 0, &counters);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["counts"]["acks"], 1);
        assert_eq!(json["silent"]["no free address left in the subnet"], 1);
        assert_eq!(json["serving"], serde_json::Value::Null);
        assert_eq!(json["waiting_for"], "is down");
    }
}
