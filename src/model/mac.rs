use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// A 48-bit Ethernet address. Shown as `52:54:00:12:34:56`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: write six hex bytes, as in 52:54:00:12:34:56")]
pub struct MacError(String);

impl Mac {
    /// False for the all-zero address and for group (multicast, broadcast) addresses, which no
    /// machine can own.
    pub fn is_usable(self) -> bool {
        self.0 != [0; 6] && self.0[0] & 1 == 0
    }

    /// The form that file names and iPXE's `${mac:hexhyp}` use: `52-54-00-12-34-56`.
    pub fn hyphenated(self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    /// Accepts `52:54:00:12:34:56`, `52-54-00-12-34-56`, `525400123456` and `5254.0012.3456`, in
    /// either case.
    fn from_str(s: &str) -> Result<Self, MacError> {
        let bad = || MacError(s.chars().take(40).collect());
        let hex: Vec<u8> = s.bytes().filter(|b| !matches!(b, b':' | b'-' | b'.')).collect();
        let separators = s.len() - hex.len();
        if hex.len() != 12 || !matches!(separators, 0 | 2 | 5) {
            return Err(bad());
        }
        let mut out = [0u8; 6];
        for (byte, pair) in out.iter_mut().zip(hex.chunks(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| bad())?;
            if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(text, 16).map_err(|_| bad())?;
        }
        Ok(Mac(out))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_four_usual_spellings_and_no_other() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        for s in ["52:54:00:12:34:ab", "52-54-00-12-34-AB", "5254001234ab", "5254.0012.34ab"] {
            assert_eq!(s.parse::<Mac>(), Ok(mac), "{s}");
        }
        for s in ["", "52:54:00:12:34", "52:54:00:12:34:ab:cd", "52:54:00:12:34:+b", "g2:54:00:12:34:ab"] {
            assert!(s.parse::<Mac>().is_err(), "{s}");
        }
    }
}
