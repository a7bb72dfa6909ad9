//! The small values of a DHCP configuration, as a person writes them: `198.18.0.0/24`,
//! `198.18.0.10-198.18.0.99`, `12h`, `01:52:54:…`.

use crate::model::Mac;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// Why a text is not one of these values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a network.
    #[error(
        "`{0}` is not an IPv4 network: write the network address and its prefix length, as in 198.18.0.0/24"
    )]
    Cidr(String),
    /// Bits set after the prefix.
    #[error("`{0}` has bits set after its prefix: did you mean {1}?")]
    HostBits(String, Cidr),
    /// Not an address range.
    #[error("`{0}` is not an address range: write 198.18.0.10-198.18.0.99, or one address")]
    Range(String),
    /// First address after the last.
    #[error("`{0}` ends before it begins: write the lower address first")]
    Backwards(String),
    /// Not a duration.
    #[error(
        "`{0}` is not a duration: write seconds as a number, or a number with s, m, h or d, as in \"12h\""
    )]
    Seconds(String),
    /// Not hex bytes.
    #[error(
        "`{0}` is not a run of hex bytes: write two digits a byte, with or without colons, as in ff:00:1a, at most 255 bytes"
    )]
    Hex(String),
    /// Not the beginning of a MAC.
    #[error("`{0}` is not the beginning of a MAC address: write one to six hex bytes, as in 52:54:00")]
    MacPrefix(String),
}

fn short(s: &str) -> String {
    s.chars().take(60).collect()
}

/// An IPv4 network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// Its lowest address.
    pub network: Ipv4Addr,
    /// 0 to 32.
    pub prefix_len: u8,
}

impl Cidr {
    /// The network of that length that `addr` lies in. Lengths over 32 count as 32.
    pub fn containing(addr: Ipv4Addr, prefix_len: u8) -> Cidr {
        let prefix_len = prefix_len.min(32);
        Cidr { network: Ipv4Addr::from_bits(addr.to_bits() & mask_bits(prefix_len)), prefix_len }
    }

    /// Whether the address lies in it.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & mask_bits(self.prefix_len) == self.network.to_bits()
    }

    /// As in 255.255.255.0.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_bits(self.prefix_len))
    }

    /// Its highest address: the broadcast address, for prefixes up to 30.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask_bits(self.prefix_len))
    }

    /// The addresses that hosts may have: all but the first and last; all of a /31 or /32 (RFC 3021).
    pub fn hosts(self) -> Range {
        if self.prefix_len >= 31 {
            return Range { first: self.network, last: self.last() };
        }
        Range {
            first: Ipv4Addr::from_bits(self.network.to_bits() | 1),
            last: Ipv4Addr::from_bits(self.last().to_bits() & !1),
        }
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

fn mask_bits(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(s: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Cidr(short(s));
        let (addr, len) = s.split_once('/').ok_or_else(bad)?;
        let addr: Ipv4Addr = addr.parse().map_err(|_| bad())?;
        let len: u8 = len.parse().map_err(|_| bad())?;
        if len > 32 {
            return Err(bad());
        }
        let cidr = Cidr::containing(addr, len);
        if cidr.network != addr {
            return Err(ValueError::HostBits(short(s), cidr));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

/// Addresses from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Lowest address.
    pub first: Ipv4Addr,
    /// Highest address, never below `first`.
    pub last: Ipv4Addr,
}

impl Range {
    /// Whether the address lies in it.
    pub fn contains(self, addr: Ipv4Addr) -> bool {
        self.first <= addr && addr <= self.last
    }

    /// How many addresses: at least 1.
    pub fn len(self) -> u64 {
        u64::from(self.last.to_bits().saturating_sub(self.first.to_bits())) + 1
    }

    /// Never: kept beside [`Range::len`] by convention.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Range) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for Range {
    type Err = ValueError;

    fn from_str(s: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Range(short(s));
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let first: Ipv4Addr = first.trim().parse().map_err(|_| bad())?;
        let last: Ipv4Addr = last.trim().parse().map_err(|_| bad())?;
        if first > last {
            return Err(ValueError::Backwards(short(s)));
        }
        Ok(Range { first, last })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Up to 255 bytes, written in hex: a client id or the value of a raw option.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HexBytes(pub Vec<u8>);

impl FromStr for HexBytes {
    type Err = ValueError;

    fn from_str(s: &str) -> Result<Self, ValueError> {
        hex(s).filter(|b| b.len() <= 255).map(HexBytes).ok_or_else(|| ValueError::Hex(short(s)))
    }
}

impl fmt::Display for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// The first one to six bytes of MAC addresses: a vendor's, or one machine's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacPrefix(Vec<u8>);

impl MacPrefix {
    /// Whether the address begins with it.
    pub fn matches(&self, mac: Mac) -> bool {
        mac.0.starts_with(&self.0)
    }
}

impl FromStr for MacPrefix {
    type Err = ValueError;

    fn from_str(s: &str) -> Result<Self, ValueError> {
        let bytes = hex(s).filter(|b| (1..=6).contains(&b.len()));
        bytes.map(MacPrefix).ok_or_else(|| ValueError::MacPrefix(short(s)))
    }
}

impl fmt::Display for MacPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

fn hex(s: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = s.bytes().filter(|b| !matches!(b, b':' | b'-' | b' ')).collect();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.chunks(2).map(|p| Some(nibble(p.first()?)? << 4 | nibble(p.get(1)?)?)).collect()
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, b) in bytes.iter().enumerate() {
        write!(f, "{}{b:02x}", if i == 0 { "" } else { ":" })?;
    }
    Ok(())
}

macro_rules! as_text {
    ($($t:ty),*) => {$(
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Cidr, Range, HexBytes, MacPrefix);

/// A duration in whole seconds; in a file a number, or a text as in `90s`, `30m`, `12h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Seconds(pub u32);

impl Seconds {
    /// In milliseconds.
    pub fn millis(self) -> i64 {
        i64::from(self.0) * 1_000
    }
}

impl FromStr for Seconds {
    type Err = ValueError;

    fn from_str(s: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Seconds(short(s));
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match s.get(digits.len()..).unwrap_or("") {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(bad()),
        };
        let number: u32 = digits.trim().parse().map_err(|_| bad())?;
        number.checked_mul(unit).map(Seconds).ok_or_else(bad)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Seconds;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds as a number, or a text as in \"12h\"")
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Seconds, E> {
                u32::try_from(v).map(Seconds).map_err(|_| E::custom(ValueError::Seconds(v.to_string())))
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Seconds, E> {
                u32::try_from(v).map(Seconds).map_err(|_| E::custom(ValueError::Seconds(v.to_string())))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Seconds, E> {
                v.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(V)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_people_write_and_says_what_is_wrong() {
        let net: Cidr = "198.18.4.0/22".parse().unwrap();
        assert_eq!(net.netmask(), Ipv4Addr::new(255, 255, 252, 0));
        assert_eq!(net.last(), Ipv4Addr::new(198, 18, 7, 255));
        assert_eq!(net.hosts().to_string(), "198.18.4.1-198.18.7.254");
        assert!(net.contains(Ipv4Addr::new(198, 18, 7, 9)) && !net.contains(Ipv4Addr::new(198, 18, 8, 0)));
        let err = "198.18.4.1/22".parse::<Cidr>().unwrap_err().to_string();
        assert!(err.contains("did you mean 198.18.4.0/22?"), "{err}");
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().last(), Ipv4Addr::BROADCAST);
        assert!("198.18.0.9-198.18.0.3".parse::<Range>().is_err());
        assert_eq!("198.18.0.3 - 198.18.0.9".parse::<Range>().unwrap().len(), 7);
        assert_eq!("198.18.0.3".parse::<Range>().unwrap().len(), 1);
        assert_eq!("12h".parse(), Ok(Seconds(43_200)));
        assert!("12 years".parse::<Seconds>().is_err() && "99999999d".parse::<Seconds>().is_err());
        assert_eq!("ff:00-1a".parse::<HexBytes>().unwrap().0, [0xff, 0, 0x1a]);
        assert!("ff:0".parse::<HexBytes>().is_err());
        let prefix: MacPrefix = "52:54:00".parse().unwrap();
        assert!(
            prefix.matches(Mac([0x52, 0x54, 0, 1, 2, 3])) && !prefix.matches(Mac([0x52, 0x55, 0, 1, 2, 3]))
        );
    }
}
