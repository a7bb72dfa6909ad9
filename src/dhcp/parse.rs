use super::options::{OVERLOAD, Options, sub_option};
use crate::model::Mac;
use dhcproto::v4::{MAGIC, borrowed};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Longest datagram that is looked at. No client sends more than an Ethernet frame holds; dhcproto
/// can be driven into deep recursion by 64 KB.
const MAX_DATAGRAM: usize = 4_096;
/// Fixed BOOTP part and magic cookie (RFC 951, RFC 2131 section 2).
const FIXED: usize = 240;

/// Why a datagram is dropped before anybody looks at who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Shorter than the fixed part.
    #[error("shorter than the 240 bytes of every DHCP packet")]
    TooShort,
    /// Longer than anything sane.
    #[error("longer than 4,096 bytes")]
    TooLong,
    /// A reply, or no BOOTP at all.
    #[error("not a BOOTREQUEST")]
    NotARequest,
    /// `htype` and `hlen` are not those of Ethernet.
    #[error("hardware address is not Ethernet's")]
    NotEthernet,
    /// A hardware address that no machine can own: zero, multicast or broadcast.
    #[error("hardware address is zero or a group address")]
    BadMac,
    /// Plain BOOTP or garbage.
    #[error("no DHCP magic cookie")]
    NoMagic,
    /// Relayed through more hops than any network has (RFC 1542 section 4.1.1).
    #[error("relayed by more than 16 hops")]
    TooManyHops,
}

/// Option 53 of a request (RFC 2132 section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 1.
    Discover,
    /// 3.
    Request,
    /// 4.
    Decline,
    /// 7.
    Release,
    /// 8.
    Inform,
    /// Anything that a client does not send.
    Other(u8),
}

/// A DHCP request: bounded, owned, and no part of it trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) mac: Mac,
    pub(super) xid: u32,
    pub(super) flags: u16,
    pub(super) ciaddr: Ipv4Addr,
    pub(super) giaddr: Ipv4Addr,
    pub(super) source: Option<SocketAddrV4>,
    pub(super) options: Options,
}

/// The MAC that a datagram says it is from, at next to no cost, where it looks like a request of an Ethernet
/// machine. What [`parse`] thinks of the rest is another matter.
pub fn peek_mac(datagram: &[u8]) -> Option<Mac> {
    let mac = datagram.get(28..34)?.try_into().map(Mac).ok()?;
    datagram.starts_with(&[1, 1, 6]).then_some(mac)
}

/// Reads a datagram. Options are walked leniently: one that can't be read hides none before it, a
/// value split over several options is joined (RFC 3396), and options in `sname` and `file` count
/// (option 52).
pub fn parse(datagram: &[u8]) -> Result<Request, Malformed> {
    if datagram.len() > MAX_DATAGRAM {
        return Err(Malformed::TooLong);
    }
    let message = borrowed::Message::new(datagram).map_err(|_| Malformed::TooShort)?;
    let (Some(&op), Some(&htype), Some(magic), Some(rest)) =
        (datagram.first(), datagram.get(1), datagram.get(236..FIXED), datagram.get(FIXED..))
    else {
        return Err(Malformed::TooShort);
    };
    if op != 1 {
        return Err(Malformed::NotARequest);
    }
    // Before dhcproto's `chaddr()`, which panics on a length over what is there.
    if htype != 1 || message.hlen() != 6 {
        return Err(Malformed::NotEthernet);
    }
    if message.hops() > 16 {
        return Err(Malformed::TooManyHops);
    }
    let mac = message.chaddr().try_into().map(Mac).map_err(|_| Malformed::NotEthernet)?;
    if !mac.is_usable() {
        return Err(Malformed::BadMac);
    }
    if magic != MAGIC {
        return Err(Malformed::NoMagic);
    }
    let mut options = Options::default();
    options.walk(rest);
    // RFC 2131 section 4.1: `options` first, then `file`, then `sname`.
    let overload = options.array::<1>(OVERLOAD).map_or(0, |[b]| b);
    if overload & 1 != 0 {
        options.walk(datagram.get(108..236).unwrap_or_default());
    }
    if overload & 2 != 0 {
        options.walk(datagram.get(44..108).unwrap_or_default());
    }
    Ok(Request {
        mac,
        xid: message.xid(),
        flags: message.flags().into(),
        ciaddr: message.ciaddr(),
        giaddr: message.giaddr(),
        source: None,
        options,
    })
}

impl Request {
    /// Hardware address (`chaddr`).
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Transaction id, the client's choice.
    pub fn xid(&self) -> u32 {
        self.xid
    }

    /// Option 53; `None` for plain BOOTP.
    pub fn message_type(&self) -> Option<MessageType> {
        self.options.array::<1>(53).map(|[t]| match t {
            1 => MessageType::Discover,
            3 => MessageType::Request,
            4 => MessageType::Decline,
            7 => MessageType::Release,
            8 => MessageType::Inform,
            other => MessageType::Other(other),
        })
    }

    /// Address of the relay that passed it on, or 0.0.0.0.
    pub fn giaddr(&self) -> Ipv4Addr {
        self.giaddr
    }

    /// Address that the client already uses, or 0.0.0.0.
    pub fn ciaddr(&self) -> Ipv4Addr {
        self.ciaddr
    }

    /// Whether the client can only receive broadcasts.
    pub fn broadcast(&self) -> bool {
        self.flags & 0x8000 != 0
    }

    /// Tells where the datagram came from. Without it, answers on port 4011 go to `ciaddr`, port 4011,
    /// and those to INFORM to `ciaddr`, port 68.
    pub fn with_source(mut self, source: SocketAddrV4) -> Request {
        self.source = Some(source);
        self
    }

    /// Option 50.
    pub fn requested_ip(&self) -> Option<Ipv4Addr> {
        self.options.array::<4>(50).map(Ipv4Addr::from)
    }

    /// Option 54.
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.options.array::<4>(54).map(Ipv4Addr::from)
    }

    /// Option 82.5: the link that the relay wants an address for (RFC 3527).
    pub fn link_selection(&self) -> Option<Ipv4Addr> {
        self.relay_sub(5)
    }

    /// Option 82.11: the server identifier that the relay wants used (RFC 5107).
    pub fn server_id_override(&self) -> Option<Ipv4Addr> {
        self.relay_sub(11)
    }

    /// Any option's joined value.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(code)
    }

    /// A sub-option of 82 that is an address; only from a relay, since a client can't know its link.
    fn relay_sub(&self, code: u8) -> Option<Ipv4Addr> {
        if self.giaddr.is_unspecified() {
            return None;
        }
        let four: [u8; 4] = sub_option(self.options.get(82)?, code)?.try_into().ok()?;
        Some(Ipv4Addr::from(four)).filter(|a| !a.is_unspecified())
    }

    /// Seconds of lease time asked for (option 51).
    pub(super) fn lease_wanted(&self) -> Option<u32> {
        self.options.array::<4>(51).map(u32::from_be_bytes)
    }

    /// Whether the client wants this option (55); yes to all where it has no list.
    pub(super) fn wants(&self, code: u8) -> bool {
        self.options.get(55).is_none_or(|list| list.contains(&code))
    }
}
