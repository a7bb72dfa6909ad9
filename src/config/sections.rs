//! The sections of `pristine.toml` as types, with their defaults. `docs/configuration.md` says for
//! operators what is said here for readers of the code.

use crate::{
    dhcp::{self, MacPrefix, Mode, Seconds},
    netboot::Roots,
    provisioner::{self, Unknown},
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};
use toml::Spanned;

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of everything that is kept: database, images, API token.
    pub state_dir: PathBuf,
    /// File of the key that secrets are sealed with; made at first need, mode 0600. Default:
    /// `<state_dir>/secrets.key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets_key: Option<PathBuf>,
    /// What a machine gets that no operator has touched.
    pub unknown: Unknown,
    /// Boots in a row that an image may fail on a machine before the last one that was healthy there
    /// takes its place; 0: never.
    pub fallback_after: u32,
    /// Image with whose kernel and initramfs machines wait in memory that are to be discovered. Default: they
    /// wait at a screen of their boot program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discover_image: Option<String>,
    /// Least severe message that is logged.
    pub log: LogLevel,
    /// HTTP for machines.
    pub http: Http,
    /// TFTP for boot programs.
    pub tftp: Tftp,
    /// REST for operators.
    pub api: Api,
    /// Boot programs.
    pub nbp: Nbp,
    /// Images.
    pub images: Images,
    /// DHCP, for all subnets.
    pub dhcp: Dhcp,
    /// What bounds memory and disk.
    pub bounds: Bounds,
    /// Links that are served.
    #[serde(rename = "interface")]
    pub interfaces: Vec<Interface>,
    /// Networks whose addresses are given out.
    #[serde(rename = "subnet")]
    pub subnets: Vec<Spanned<dhcp::Subnet>>,
    /// Addresses that belong to one machine each.
    #[serde(rename = "reservation")]
    pub reservations: Vec<Spanned<dhcp::Reservation>>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            state_dir: PathBuf::from("/var/lib/pristine"),
            secrets_key: None,
            unknown: Unknown::default(),
            fallback_after: 3,
            discover_image: None,
            log: LogLevel::default(),
            http: Http::default(),
            tftp: Tftp::default(),
            api: Api::default(),
            nbp: Nbp::default(),
            images: Images::default(),
            dhcp: Dhcp::default(),
            bounds: Bounds::default(),
            interfaces: Vec::new(),
            subnets: Vec::new(),
            reservations: Vec::new(),
        }
    }
}

/// Severity of what is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// HTTP for machines: scripts, blobs, NBPs, boot reports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address to listen on. 0.0.0.0 follows interfaces that come later.
    pub listen: Ipv4Addr,
    /// TCP port; every URL that machines get names it.
    pub port: u16,
    /// Longest wait for a request's head, a kept connection's next one included.
    pub head_time: Seconds,
    /// Longest wait for a request's body.
    pub body_time: Seconds,
    /// A client that takes hardly anything for so long is cut off.
    pub stall_time: Seconds,
    /// How machines get the roots of native images.
    pub roots: Roots,
    /// Machines that fetch their root at a time; 0: no limit.
    pub roots_at_once: u32,
    /// Of those, machines of one rack; 0: no limit.
    pub roots_per_rack: u32,
}

impl Default for Http {
    fn default() -> Http {
        Http {
            listen: Ipv4Addr::UNSPECIFIED,
            port: 8080,
            head_time: Seconds(30),
            body_time: Seconds(10),
            stall_time: Seconds(40),
            roots: Roots::default(),
            roots_at_once: 12,
            roots_per_rack: 8,
        }
    }
}

/// TFTP for boot programs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tftp {
    /// False: no TFTP at all (a site with UEFI HTTP Boot only).
    pub enabled: bool,
    /// UDP port, on the address of each served interface. Firmware asks 69 and no other.
    pub port: u16,
}

impl Default for Tftp {
    fn default() -> Tftp {
        Tftp { enabled: true, port: 69 }
    }
}

/// REST for operators.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Address and port. The API has no TLS: keep it on loopback or behind a proxy.
    pub listen: SocketAddr,
    /// File with the bearer token; made at first start, mode 0600. Default: `<state_dir>/api-token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// Where the API listens unless configured.
pub const API_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

impl Default for Api {
    fn default() -> Api {
        Api { listen: API_LISTEN, token_file: None }
    }
}

/// Boot programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nbp {
    /// Folder of the files that firmware is given. Default: `<state_dir>/nbp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
}

/// Which images boot, and how often their bytes are read again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Only those that a trusted key signed (`pristine key`, `pristine image sign`).
    pub require_signature: bool,
    /// From the end of one scrub of the store to the next; 0: never.
    pub scrub_interval: Seconds,
    /// MiB that a scrub reads in a second.
    pub scrub_rate: u32,
}

impl Default for Images {
    fn default() -> Images {
        Images { require_signature: false, scrub_interval: Seconds(7 * 86_400), scrub_rate: 32 }
    }
}

/// DHCP for all subnets; the fields of [`dhcp::Site`] that are not subnets or reservations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dhcp {
    /// True: the only DHCP server of its subnets; says NAK to what can't be.
    pub authoritative: bool,
    /// Lease time where the subnet says nothing.
    pub lease: Seconds,
    /// Shortest lease that a client can ask for.
    pub min_lease: Seconds,
    /// How long an offered address is held.
    pub offer_hold: Seconds,
    /// How long an address rests after somebody else answered on it.
    pub quarantine: Seconds,
    /// Ask by ARP before an address goes to a client that did not have it before.
    pub probe: bool,
    /// MAC prefixes of firmware that rejects option 43.6 = 8.
    pub no_discovery_control: Vec<MacPrefix>,
}

impl Default for Dhcp {
    fn default() -> Dhcp {
        let site = dhcp::Site::default();
        Dhcp {
            authoritative: site.authoritative,
            lease: site.lease,
            min_lease: site.min_lease,
            offer_hold: site.offer_hold,
            quarantine: site.quarantine,
            probe: site.probe,
            no_discovery_control: site.no_discovery_control,
        }
    }
}

/// What bounds memory and disk, so that strangers can't use them up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Offers to unknown machines that may be outstanding on one link.
    pub offers_per_link: usize,
    /// Addresses that one MAC may hold in one subnet, by several client ids.
    pub leases_per_mac: usize,
    /// Part of each pool that only known machines get, in percent.
    pub known_reserve_percent: u8,
    /// Addresses found in use before one client's DISCOVER is given up.
    pub probe_tries: u8,
    /// Machines on record.
    pub machines: usize,
    /// MACs seen that hold no lease and got no script yet, in memory only.
    pub strangers: usize,
    /// Boot attempts kept of each machine.
    pub attempts_per_machine: usize,
    /// Boot attempts kept in all.
    pub attempts: usize,
    /// Boot scripts that one machine gets in a minute.
    pub scripts_per_minute: u32,
    /// DHCP requests in work at once on one link.
    pub dhcp_in_work: usize,
    /// DHCP requests of unknown machines that are looked at in a second on one link.
    pub dhcp_strangers_per_second: u32,
    /// The same, at once after a quiet time.
    pub dhcp_strangers_burst: u32,
    /// TFTP transfers at once from one served address.
    pub tftp_transfers: usize,
    /// Of these to one client address.
    pub tftp_transfers_per_client: usize,
    /// HTTP connections of machines at once.
    pub http_connections: usize,
    /// Of these from one client address.
    pub http_connections_per_client: usize,
    /// Connections to the API at once.
    pub api_connections: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        let b = dhcp::Bounds::default();
        let p = provisioner::Bounds::default();
        Bounds {
            offers_per_link: b.offers_per_link,
            leases_per_mac: b.leases_per_mac,
            known_reserve_percent: b.known_reserve_percent,
            probe_tries: b.probe_tries,
            machines: p.machines,
            strangers: p.strangers,
            attempts_per_machine: p.attempts_per_machine,
            attempts: p.attempts,
            scripts_per_minute: p.scripts_per_minute,
            dhcp_in_work: 4_096,
            dhcp_strangers_per_second: 2_000,
            dhcp_strangers_burst: 4_000,
            tftp_transfers: 512,
            tftp_transfers_per_client: 8,
            http_connections: 1_024,
            http_connections_per_client: 32,
            api_connections: 128,
        }
    }
}

/// A link that is served.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// As `ip link` shows it.
    pub name: String,
    /// What is answered: `full`, `proxy` or `off`.
    #[serde(default)]
    pub mode: Mode,
    /// Send a router advertisement of lifetime 0, which saves iPXE 4 to 17 s of waiting. Default: on
    /// in full mode, off otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_advertisement: Option<bool>,
    /// How long ARP may take to say that a new client's address is free, in milliseconds, up to 300.
    #[serde(default = "probe_ms")]
    pub probe_ms: u16,
    /// In full mode: look for other DHCP servers while serving, and raise an alarm.
    #[serde(default = "watch_others")]
    pub watch_others: bool,
}

fn probe_ms() -> u16 {
    100
}

fn watch_others() -> bool {
    true
}

impl Interface {
    /// A link in full mode with defaults.
    pub fn named(name: &str, mode: Mode) -> Interface {
        Interface {
            name: name.to_owned(),
            mode,
            router_advertisement: None,
            probe_ms: probe_ms(),
            watch_others: true,
        }
    }

    /// Whether router advertisements are sent.
    pub fn advertises(&self) -> bool {
        self.router_advertisement.unwrap_or(self.mode == Mode::Full)
    }
}

impl Config {
    /// Folder of the boot programs.
    pub fn nbp_dir(&self) -> PathBuf {
        self.nbp.dir.clone().unwrap_or_else(|| self.state_dir.join("nbp"))
    }

    /// File with the API's bearer token.
    pub fn token_file(&self) -> PathBuf {
        self.api.token_file.clone().unwrap_or_else(|| token_file_in(&self.state_dir))
    }

    /// File of the key that secrets are sealed with.
    pub fn secrets_key(&self) -> PathBuf {
        self.secrets_key.clone().unwrap_or_else(|| self.state_dir.join(provisioner::SECRETS_KEY))
    }

    /// How the provisioner decides.
    pub fn options(&self) -> provisioner::Options {
        let b = &self.bounds;
        provisioner::Options {
            site: self.site(),
            unknown: self.unknown,
            bounds: provisioner::Bounds {
                machines: b.machines,
                strangers: b.strangers,
                attempts_per_machine: b.attempts_per_machine,
                attempts: b.attempts,
                scripts_per_minute: b.scripts_per_minute,
            },
            require_signature: self.images.require_signature,
            fallback_after: self.fallback_after,
            discover_image: self.discover_image.clone(),
            roots: self.http.roots,
            secrets_key: Some(self.secrets_key()),
        }
    }

    /// What `dhcp` is given.
    pub fn site(&self) -> dhcp::Site {
        let d = &self.dhcp;
        let b = &self.bounds;
        dhcp::Site {
            subnets: self.subnets.iter().map(|s| s.get_ref().clone()).collect(),
            reservations: self.reservations.iter().map(|r| r.get_ref().clone()).collect(),
            authoritative: d.authoritative,
            lease: d.lease,
            min_lease: d.min_lease,
            offer_hold: d.offer_hold,
            quarantine: d.quarantine,
            probe: d.probe,
            no_discovery_control: d.no_discovery_control.clone(),
            bounds: dhcp::Bounds {
                offers_per_link: b.offers_per_link,
                leases_per_mac: b.leases_per_mac,
                known_reserve_percent: b.known_reserve_percent,
                probe_tries: b.probe_tries,
            },
            ..dhcp::Site::default()
        }
    }

    /// The configuration as it works, as a TOML file.
    pub fn show(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&self.effective())
    }

    /// The configuration with every default that hangs on another key written out.
    pub fn effective(&self) -> Config {
        let mut whole = self.clone();
        whole.secrets_key = Some(self.secrets_key());
        whole.nbp.dir = Some(self.nbp_dir());
        whole.api.token_file = Some(self.token_file());
        for interface in &mut whole.interfaces {
            interface.router_advertisement = Some(interface.advertises());
        }
        whole
    }
}

/// Where the token is unless configured.
pub fn token_file_in(state_dir: &Path) -> PathBuf {
    state_dir.join("api-token")
}
