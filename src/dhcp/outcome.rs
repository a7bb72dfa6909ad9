//! What comes of a request: a reply, a probe, or a reason for silence, and the changes to make durable.

use crate::model::{Change, Mac};
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

/// What an ARP probe found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Nobody answered, or the asking client itself (its own MAC).
    Free(Ipv4Addr),
    /// Another host answered.
    InUse(Ipv4Addr),
}

/// What to do about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// To do after `changes` are durable.
    pub action: Action,
    /// To make durable first, in this order.
    pub changes: Vec<Change>,
}

/// One step towards an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Reply(Reply),
    /// Ask by ARP whether somebody has this address, then call [`respond`] again with the same
    /// request and what was found.
    Probe(Ipv4Addr),
    /// Send nothing.
    Silent(Reason),
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// UDP payload.
    pub bytes: Vec<u8>,
    /// Where to.
    pub to: Destination,
    /// Which message it is.
    pub kind: ReplyKind,
    /// Address that it gives, or 0.0.0.0.
    pub yiaddr: Ipv4Addr,
}

impl Reply {
    /// Promises the address for `seconds` at most (options 51, 58 and 59).
    pub fn shorten(&mut self, seconds: u32) {
        let times = |code| match code {
            51 => Some(u64::from(seconds)),
            58 => Some(u64::from(seconds) / 2),
            59 => Some(u64::from(seconds) * 7 / 8),
            _ => None,
        };
        // The options as `reply` put them: no padding before the end.
        let mut rest = self.bytes.get_mut(OPTIONS..).unwrap_or_default();
        while let [code, len, more @ ..] = rest {
            let Some((value, after)) = more.split_at_mut_checked(usize::from(*len)) else { return };
            if let (Some(time), Ok(was)) = (times(*code), <[u8; 4]>::try_from(&*value)) {
                let time = u32::try_from(time).unwrap_or(u32::MAX).min(u32::from_be_bytes(was));
                value.copy_from_slice(&time.to_be_bytes());
            }
            if *code == 255 {
                return;
            }
            rest = after;
        }
    }
}

/// Where options begin: after the fixed part and the magic cookie (RFC 2131 section 3).
const OPTIONS: usize = 240;

/// Message type of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    /// DHCPOFFER.
    Offer,
    /// DHCPACK.
    Ack,
    /// DHCPNAK.
    Nak,
}

/// Where a reply goes (RFC 2131 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the relay's address.
    Relay(SocketAddrV4),
    /// To an address that the client already answers on.
    Unicast(SocketAddrV4),
    /// To a client that has no address yet: a frame to its MAC, without asking ARP.
    Hardware {
        /// Frame's destination.
        mac: Mac,
        /// Packet's destination: the address that it is being given.
        ip: Ipv4Addr,
        /// UDP port.
        port: u16,
    },
    /// To 255.255.255.255 on the link that the request came from.
    Broadcast {
        /// UDP port.
        port: u16,
    },
}

/// Why nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The link is not served.
    Off,
    /// No message type: plain BOOTP.
    NotDhcp,
    /// A message that servers don't answer, or one that lacks what it needs.
    Unexpected,
    /// No configured subnet fits where the client is.
    NoSubnet,
    /// The client chose another server.
    OtherServer,
    /// A lease that is not ours, and we are not authoritative.
    UnknownLease,
    /// An address that the client can't have, and we are not authoritative.
    NotAuthoritative,
    /// No free address left.
    PoolExhausted,
    /// The last free addresses are for known machines.
    KeptForKnown,
    /// Too many offers to unknown machines are outstanding on this link.
    TooManyOffers,
    /// This MAC holds as many addresses as one may.
    TooManyForMac,
    /// The probe for this client's address is still running.
    ProbePending,
    /// Every address that was tried for this client is in use by somebody unknown.
    AllInUse,
    /// Proxy mode, and the client does not boot from us.
    NothingToBoot,
    /// The lease could not be made durable, so it is not promised.
    NotSaved,
    /// Done: the lease was given back.
    Released,
    /// Done: the address is quarantined.
    Declined,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Off => "DHCP is off on this link",
            Reason::NotDhcp => "plain BOOTP, no DHCP message type",
            Reason::Unexpected => "not a message that this server answers",
            Reason::NoSubnet => "no configured subnet fits the client's link or relay",
            Reason::OtherServer => "the client chose another DHCP server",
            Reason::UnknownLease => "not a lease of ours, and not authoritative",
            Reason::NotAuthoritative => "the client can't have that address, and not authoritative",
            Reason::PoolExhausted => "no free address left in the subnet",
            Reason::KeptForKnown => "the last free addresses are kept for known machines",
            Reason::TooManyOffers => "too many offers to unknown machines outstanding on this link",
            Reason::TooManyForMac => "this MAC holds as many addresses as one may",
            Reason::ProbePending => "still asking whether the address is free",
            Reason::AllInUse => "every address tried is in use by another host",
            Reason::NothingToBoot => "proxy mode, and nothing to boot for this client",
            Reason::NotSaved => "the lease could not be written to disk",
            Reason::Released => "released",
            Reason::Declined => "declined: the address is quarantined",
        })
    }
}

impl Outcome {
    pub(super) fn silent(reason: Reason) -> Outcome {
        Outcome { action: Action::Silent(reason), changes: Vec::new() }
    }
}
