//! Options as raw bytes. dhcproto's decoder drops everything after the first option that it can't
//! decode and joins only neighbours; its iterator drops an option whose continuation is cut. What
//! decides about a boot is therefore walked here.

use std::ops::Range;

/// Options of a datagram: every code once, values joined (RFC 3396), in order of first appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// One value after the other.
    values: Vec<u8>,
    /// Where each lies.
    places: Vec<(u8, Range<usize>)>,
}

pub(crate) const OVERLOAD: u8 = 52;

impl Options {
    /// Adds what `area` holds, up to its end or to the option whose length runs past it.
    pub(crate) fn walk(&mut self, area: &[u8]) {
        self.values.reserve(area.len());
        self.places.reserve(16);
        let mut rest = area;
        while let Some((&code, tail)) = rest.split_first() {
            match code {
                0 => rest = tail,
                255 => return,
                _ => {
                    let Some((&len, tail)) = tail.split_first() else { return };
                    let Some((value, tail)) = tail.split_at_checked(usize::from(len)) else { return };
                    self.append(code, value);
                    rest = tail;
                }
            }
        }
    }

    fn append(&mut self, code: u8, value: &[u8]) {
        let end = self.values.len();
        let Some(at) = self.places.iter().position(|(c, _)| *c == code) else {
            self.values.extend_from_slice(value);
            self.places.push((code, end..self.values.len()));
            return;
        };
        let (before, after) = self.places.split_at_mut(at + 1);
        let Some((_, place)) = before.last_mut() else { return };
        // Those behind it make room.
        self.values.splice(place.end..place.end, value.iter().copied());
        place.end += value.len();
        for (_, behind) in after {
            *behind = behind.start + value.len()..behind.end + value.len();
        }
    }

    /// The joined value of an option.
    pub(crate) fn get(&self, code: u8) -> Option<&[u8]> {
        let (_, place) = self.places.iter().find(|(c, _)| *c == code)?;
        self.values.get(place.clone())
    }

    /// The value, if it is exactly `N` bytes long.
    pub(crate) fn array<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }
}

/// A sub-option of an encapsulated option (43, 82, 175).
pub(crate) fn sub_option(area: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = area;
    while let Some((&code, tail)) = rest.split_first() {
        if code == 0 {
            rest = tail;
            continue;
        }
        if code == 255 {
            return None;
        }
        let (&len, tail) = tail.split_first()?;
        let (value, tail) = tail.split_at_checked(usize::from(len))?;
        if code == wanted {
            return Some(value);
        }
        rest = tail;
    }
    None
}
