use super::WatchPace;
use crate::dhcp::Mode;
use std::time::Duration;

/// A new client waits for the address probe, so it is bounded whatever the configuration says.
const LONGEST_PROBE_MS: u16 = 300;

/// What the DHCP server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// One entry for each served interface; a name may be of an interface that isn't there yet.
    pub interfaces: Vec<InterfaceSettings>,
}

/// How one interface is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// Its name, as in `eth1`.
    pub name: String,
    /// Full DHCP, boot answers beside another DHCP server, or nothing.
    pub mode: Mode,
    /// Port of the machine-facing HTTP listener, as URLs name it.
    pub http_port: u16,
    /// Whether to tell IPv6 stacks that there is no router, which ends iPXE's wait for one. `None`:
    /// yes in full mode, no in proxy mode. Where another router advertises itself, never.
    pub router_advertisement: Option<bool>,
    /// How long to ask by ARP whether an address is taken before it is offered to a new client, in
    /// milliseconds; 0 asks nobody, and more than 300 is taken as 300.
    pub probe_ms: u16,
    /// How often to look for other DHCP servers in full mode; `None`: never.
    pub watch_others: Option<WatchPace>,
    /// Bounds of what this link may cost us.
    pub bounds: LinkBounds,
}

/// What strangers on a link may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkBounds {
    /// Requests in work at once; a quarter is kept for machines that are known. A new machine's first
    /// request is in work for as long as its address is probed.
    pub in_flight: usize,
    /// Requests of unknown MACs that are looked at in a second.
    pub unknown_per_second: u32,
    /// The same, at once after a quiet time: a rack that powers on together.
    pub unknown_burst: u32,
    /// MACs that are remembered because we answered them lately.
    pub remembered: usize,
}

impl Default for LinkBounds {
    fn default() -> LinkBounds {
        LinkBounds { in_flight: 4_096, unknown_per_second: 2_000, unknown_burst: 4_000, remembered: 8_192 }
    }
}

impl Default for InterfaceSettings {
    fn default() -> InterfaceSettings {
        InterfaceSettings {
            name: String::new(),
            mode: Mode::Full,
            http_port: 8080,
            router_advertisement: None,
            // As Kea waits for a ping. A neighbour answers within a millisecond or two.
            probe_ms: 100,
            watch_others: Some(WatchPace::default()),
            bounds: LinkBounds::default(),
        }
    }
}

impl InterfaceSettings {
    /// An interface with everything else at its default.
    pub fn new(name: &str, mode: Mode) -> InterfaceSettings {
        InterfaceSettings { name: name.to_owned(), mode, ..InterfaceSettings::default() }
    }

    /// Whether router advertisements are sent.
    pub fn advertises(&self) -> bool {
        self.router_advertisement.unwrap_or(self.mode == Mode::Full)
    }

    /// How long a probe takes; `None` for no probe.
    pub fn probe(&self) -> Option<Duration> {
        (self.probe_ms > 0).then(|| Duration::from_millis(self.probe_ms.min(LONGEST_PROBE_MS).into()))
    }
}
