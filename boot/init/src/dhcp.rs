//! DHCP packets (RFC 2131, 2132, 3442), as far as `init` needs them. Pure: bytes in, bytes out.

use std::{net::Ipv4Addr, time::Duration};

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Offset of `options` behind the magic cookie.
const OPTIONS_AT: usize = 240;

/// Message type (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Server to client: this address is yours to ask for.
    Offer,
    /// Server to client: it is yours.
    Ack,
    /// Server to client: it is not.
    Nak,
}

/// One exchange's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Transaction id.
    pub xid: u32,
    /// Our NIC.
    pub mac: [u8; 6],
    /// Seconds since the first try (BOOTP `secs`: relays and busy servers look at it).
    pub secs: u16,
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Offer, ACK or NAK.
    pub kind: Kind,
    /// Our address.
    pub addr: Ipv4Addr,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 1; the address's class where absent.
    pub mask: Ipv4Addr,
    /// Option 3, first entry; unused where `routes` has any (RFC 3442).
    pub router: Option<Ipv4Addr>,
    /// Option 121: destination, prefix length, gateway (0.0.0.0: on the link).
    pub routes: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 15, where it is a plain name.
    pub domain: Option<String>,
    /// Option 26, at least 576.
    pub mtu: Option<u16>,
    /// Option 51: how long the address is ours; `None` for ever, or where nothing is said.
    pub lease: Option<Duration>,
}

/// A DISCOVER.
pub fn discover(x: &Exchange) -> Vec<u8> {
    message(x, 1, &[])
}

/// A REQUEST for what was offered.
pub fn request(x: &Exchange, addr: Ipv4Addr, server: Ipv4Addr) -> Vec<u8> {
    message(x, 3, &[(50, &addr.octets()), (54, &server.octets())])
}

fn message(x: &Exchange, kind: u8, more: &[(u8, &[u8])]) -> Vec<u8> {
    // BOOTREQUEST, Ethernet, 6-byte address, no hops.
    let mut out = vec![1, 1, 6, 0];
    out.extend(x.xid.to_be_bytes());
    out.extend(x.secs.to_be_bytes());
    // Broadcast flag: our socket has no address yet, so a unicast answer would not reach it.
    out.extend(0x8000u16.to_be_bytes());
    out.extend([0; 16]);
    out.extend(x.mac);
    out.resize(236, 0);
    out.extend(COOKIE);
    let own: [(u8, &[u8]); 4] = [
        (53, &[kind]),
        (57, &1472u16.to_be_bytes()),
        (60, b"pristine-init"),
        (55, &[1, 3, 6, 15, 26, 51, 54, 121]),
    ];
    for (code, value) in own.iter().chain(more) {
        out.push(*code);
        out.push(value.len() as u8);
        out.extend(*value);
    }
    out.push(255);
    // RFC 1542 section 2.1: relays drop what is shorter than a BOOTP packet.
    out.resize(out.len().max(300), 0);
    out
}

/// Reads an answer to `x`; `None` where it is no such thing.
pub fn parse(packet: &[u8], x: &Exchange) -> Option<Answer> {
    let ours = packet.first() == Some(&2)
        && packet.get(4..8)? == x.xid.to_be_bytes()
        && packet.get(28..34)? == x.mac
        && packet.get(236..240)? == COOKIE;
    if !ours {
        return None;
    }
    let options = options(packet)?;
    // RFC 3396: the parts of an option that is there more than once belong together.
    let get = |code: u8| -> Vec<u8> {
        options.iter().filter(|(c, _)| *c == code).flat_map(|(_, v)| v.iter().copied()).collect()
    };
    let addrs = |code| -> Vec<Ipv4Addr> { get(code).chunks_exact(4).filter_map(ipv4).collect() };
    let kind = match get(53).as_slice() {
        [2] => Kind::Offer,
        [5] => Kind::Ack,
        [6] => Kind::Nak,
        _ => return None,
    };
    let addr = ipv4(packet.get(16..20)?)?;
    if kind != Kind::Nak && (addr.is_unspecified() || addr.is_broadcast() || addr.is_multicast()) {
        return None; // a proxy offer, or nonsense
    }
    let domain = String::from_utf8(get(15)).ok().map(|d| d.trim_end_matches('\0').to_owned());
    Some(Answer {
        kind,
        addr,
        server: addrs(54).first().copied(),
        mask: addrs(1).first().copied().filter(|m| is_mask(*m)).unwrap_or_else(|| class_mask(addr)),
        router: addrs(3).first().copied(),
        routes: routes(&get(121)),
        dns: addrs(6),
        domain: domain.filter(|d| {
            (1..=253).contains(&d.len())
                && d.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        }),
        lease: get(51)
            .try_into()
            .ok()
            .map(u32::from_be_bytes)
            .filter(|seconds| *seconds != u32::MAX)
            .map(|seconds| Duration::from_secs(seconds.into())),
        mtu: get(26).try_into().ok().map(u16::from_be_bytes).filter(|mtu| *mtu >= 576),
    })
}

/// Every option in order, overloaded fields (option 52) included. `None` for a broken area.
fn options(packet: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut out = area(packet.get(OPTIONS_AT..)?)?;
    let overload = out.iter().find(|(code, _)| *code == 52).and_then(|(_, v)| v.first().copied());
    let (sname, file) = (packet.get(44..108)?, packet.get(108..236)?);
    if matches!(overload, Some(1 | 3)) {
        out.extend(area(file)?);
    }
    if matches!(overload, Some(2 | 3)) {
        out.extend(area(sname)?);
    }
    Some(out)
}

fn area(mut rest: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut out = Vec::new();
    while let Some((code, tail)) = rest.split_first() {
        match code {
            0 => rest = tail,
            255 => break,
            code => {
                let (len, tail) = tail.split_first()?;
                let (value, tail) = tail.split_at_checked(usize::from(*len))?;
                out.push((*code, value));
                rest = tail;
            }
        }
    }
    Some(out)
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn is_mask(mask: Ipv4Addr) -> bool {
    let bits = u32::from(mask);
    bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32
}

fn class_mask(addr: Ipv4Addr) -> Ipv4Addr {
    match addr.octets() {
        [0..=127, ..] => Ipv4Addr::new(255, 0, 0, 0),
        [128..=191, ..] => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}

/// RFC 3442: width, as many octets of the destination as it covers, gateway. A broken list counts as
/// none.
fn routes(mut rest: &[u8]) -> Vec<(Ipv4Addr, u8, Ipv4Addr)> {
    let mut out = Vec::new();
    while let Some((width, tail)) = rest.split_first() {
        let octets = usize::from(width.div_ceil(8));
        let parsed =
            (*width <= 32).then(|| tail.split_at_checked(octets)).flatten().and_then(|(dest, tail)| {
                let (gateway, tail) = tail.split_at_checked(4)?;
                let mut full = [0; 4];
                full.iter_mut().zip(dest).for_each(|(to, from)| *to = *from);
                Some((Ipv4Addr::from(full), ipv4(gateway)?, tail))
            });
        let Some((dest, gateway, tail)) = parsed else { return Vec::new() };
        out.push((dest, *width, gateway));
        rest = tail;
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const X: Exchange = Exchange { xid: 0xdead_beef, mac: [2, 0, 0, 0, 0, 9], secs: 3 };

    fn answer(options: &[u8]) -> Vec<u8> {
        let mut p = vec![2, 1, 6, 0];
        p.extend(X.xid.to_be_bytes());
        p.resize(16, 0);
        p.extend([10, 1, 2, 3]);
        p.resize(28, 0);
        p.extend(X.mac);
        p.resize(236, 0);
        p.extend(COOKIE);
        p.extend(options);
        p
    }

    #[test]
    fn asks_as_itself_and_names_no_host() {
        let p = discover(&X);
        assert_eq!((p.len(), p[0], &p[4..8], &p[28..34]), (300, 1, &X.xid.to_be_bytes()[..], &X.mac[..]));
        let options = options(&p).unwrap();
        assert!(options.contains(&(60, b"pristine-init")) && options.contains(&(53, &[1])));
        assert!(!options.iter().any(|(code, _)| *code == 12));
        let p = request(&X, Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 1));
        let options = self::options(&p).unwrap();
        assert!(options.contains(&(50, &[10, 1, 2, 3])) && options.contains(&(54, &[10, 1, 2, 1])));
    }

    #[test]
    fn reads_an_offer() {
        let mut o = vec![53, 1, 2, 1, 4, 255, 255, 255, 0, 0, 0, 3, 8, 10, 1, 2, 1, 10, 1, 2, 2];
        o.extend([51, 4, 0, 0, 14, 16, 6, 4, 9, 9, 9, 9, 54, 4, 10, 1, 2, 1, 26, 2, 0x05, 0xdc, 15, 4]);
        o.extend(b"lan\0");
        o.extend([121, 8, 24, 172, 16, 5, 10, 1, 2, 9, 121, 5, 0, 10, 1, 2, 1, 255]);
        // Both parts of option 121 belong together, but this cut is within an entry's list.
        let a = parse(&answer(&o), &X).unwrap();
        assert_eq!((a.kind, a.addr, a.mask), (Kind::Offer, [10, 1, 2, 3].into(), [255, 255, 255, 0].into()));
        assert_eq!(a.lease, Some(Duration::from_secs(3600)));
        assert_eq!((a.router, a.server), (Some([10, 1, 2, 1].into()), Some([10, 1, 2, 1].into())));
        assert_eq!((a.dns, a.domain.as_deref(), a.mtu), (vec![[9, 9, 9, 9].into()], Some("lan"), Some(1500)));
        assert_eq!(
            a.routes,
            [
                (Ipv4Addr::new(172, 16, 5, 0), 24, Ipv4Addr::new(10, 1, 2, 9)),
                (Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(10, 1, 2, 1))
            ]
        );
    }

    #[test]
    fn reads_overloaded_fields() {
        let mut p = answer(&[52, 1, 3, 255]);
        p[108..112].copy_from_slice(&[53, 1, 5, 255]);
        p[44..51].copy_from_slice(&[54, 4, 10, 1, 2, 1, 255]);
        let a = parse(&p, &X).unwrap();
        assert_eq!(
            (a.kind, a.server, a.mask),
            (Kind::Ack, Some([10, 1, 2, 1].into()), [255, 0, 0, 0].into())
        );
    }

    #[test]
    fn passes_over_what_is_not_for_us_or_broken() {
        let good = answer(&[53, 1, 2, 255]);
        assert!(parse(&good, &X).is_some());
        assert!(parse(&good, &Exchange { xid: 1, ..X }).is_none());
        assert!(parse(&good, &Exchange { mac: [1; 6], ..X }).is_none());
        for cut in 0..243 {
            assert!(parse(&good[..cut], &X).is_none(), "cut at {cut}");
        }
        assert!(parse(&answer(&[53, 9, 2]), &X).is_none());
        let mut proxy = good;
        proxy[16..20].fill(0);
        assert!(parse(&proxy, &X).is_none());
        assert!(routes(&[33, 1, 1, 1, 1, 1]).is_empty() && routes(&[24, 1]).is_empty());
    }
}
