//! What the switch says of itself: LLDP frames (IEEE 802.1AB), heard and never sent.

use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    time::{Duration, Instant},
};

/// The other end of a cable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// Identity of the switch, mostly a MAC.
    pub chassis: String,
    /// Its port.
    pub port: String,
    /// Name of the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What an operator wrote about the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Ears on NICs, by their names.
#[derive(Debug, Default)]
pub struct Ears(BTreeMap<String, File>);

impl Ears {
    /// Listens on this NIC too. One that can't be listened to has no neighbour.
    pub fn add(&mut self, interface: &str, index: u32) {
        if !self.0.contains_key(interface)
            && let Ok(socket) = sys::lldp_socket(index)
        {
            self.0.insert(interface.to_owned(), File::from(socket));
        }
    }

    /// Waits so long, or until something is heard; who was heard at which NIC.
    pub fn listen(&mut self, patience: Duration) -> Vec<(String, Neighbour)> {
        let until = Instant::now() + patience;
        let mut heard = Vec::new();
        while heard.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds: Vec<_> = self.0.values().map(|ear| PollFd::new(ear, PollFlags::IN)).collect();
            if !matches!(poll(&mut fds, Some(&left)), Ok(1..)) {
                break;
            }
            for (name, ear) in &mut self.0 {
                let mut frame = [0; 1600];
                // A NIC that went down is an error each time: it is not waited for in a loop.
                match ear.read(&mut frame) {
                    Ok(n) => {
                        heard.extend(parse(frame.get(..n).unwrap_or_default()).map(|n| (name.clone(), n)))
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return heard,
                }
            }
        }
        heard
    }
}

/// Reads the data of a frame: type-length-value parts, the first three of which every frame has.
pub fn parse(mut rest: &[u8]) -> Option<Neighbour> {
    let (mut chassis, mut port, mut system, mut description) = (None, None, None, None);
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let head = u16::from_be_bytes(*head);
        let (value, tail) = tail.split_at_checked(usize::from(head & 0x1ff))?;
        match head >> 9 {
            0 => break,
            // Subtype 4 of a chassis, 3 of a port: a MAC.
            1 => chassis = id(value, 4),
            2 => port = id(value, 3),
            4 => description = text(value),
            5 => system = text(value),
            _ => {}
        }
        rest = tail;
    }
    Some(Neighbour { chassis: chassis?, port: port?, system, description })
}

fn id(value: &[u8], mac: u8) -> Option<String> {
    match value.split_first()? {
        (kind, id) if *kind == mac && id.len() == 6 => Some(hex(id)),
        (_, id) => text(id).or_else(|| Some(hex(id.get(..16.min(id.len()))?))).filter(|t| !t.is_empty()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_matches(['\0', ' ']);
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.chars().take(128).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn tlv(kind: u16, value: &[u8]) -> Vec<u8> {
        [&(kind << 9 | value.len() as u16).to_be_bytes()[..], value].concat()
    }

    #[test]
    fn reads_what_switches_say() {
        let chassis = tlv(1, &[4, 0x52, 0x54, 0, 1, 2, 3]);
        let frame = [
            chassis.clone(),
            tlv(2, b"\x05Ethernet1/7"),
            tlv(3, &[0, 120]),
            tlv(4, b"to rack a1 unit 4"),
            tlv(5, b"leaf-3\0"),
            tlv(127, &[0, 0x80, 0xc2, 1, 0, 7]),
            tlv(0, b""),
            b"padding of a short frame".to_vec(),
        ]
        .concat();
        let heard = parse(&frame).unwrap();
        assert_eq!((heard.chassis.as_str(), heard.port.as_str()), ("52:54:00:01:02:03", "Ethernet1/7"));
        assert_eq!(
            (heard.system.as_deref(), heard.description.as_deref()),
            (Some("leaf-3"), Some("to rack a1 unit 4"))
        );
        let plain = parse(&[chassis, tlv(2, &[7, 0xff, 0xfe]), tlv(5, b"a\x1b[2Jb")].concat()).unwrap();
        assert_eq!((plain.port.as_str(), plain.system), ("ff:fe", None));
        // Cut anywhere, or without a port, it is no neighbour or a whole one.
        for cut in 0..frame.len() {
            if let Some(some) = parse(&frame[..cut]) {
                assert_eq!(some.port, heard.port);
            }
        }
        assert_eq!(parse(&tlv(2, b"\x05x")), None);
        assert_eq!(parse(&[tlv(1, b""), tlv(2, b"\x05x")].concat()), None);
    }
}
