//! What makes no sense although it can be read.

use super::{Config, Problem};
use crate::dhcp::{Cidr, Mode, SiteError};
use std::{collections::BTreeSet, net::Ipv4Addr, ops::Range};

/// Longest name that the kernel gives an interface (IFNAMSIZ less its NUL).
const LONGEST_NAME: usize = 15;
/// Longest address probe, in milliseconds.
const LONGEST_PROBE_MS: u16 = 300;

impl Config {
    /// Everything that is wrong in it; `text` is the file that it was read from.
    pub(super) fn problems(&self, text: &str) -> Vec<Problem> {
        let mut out = Vec::new();
        self.interface_problems(text, &mut out);
        self.port_problems(text, &mut out);
        self.path_problems(text, &mut out);
        self.bound_problems(text, &mut out);
        self.time_problems(text, &mut out);
        self.site_problems(text, &mut out);
        out
    }

    fn interface_problems(&self, text: &str, out: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (i, interface) in self.interfaces.iter().enumerate() {
            let at = span_of(text, &["interface"], Some(i), "name");
            let name = &interface.name;
            let fits = !name.is_empty()
                && name.len() <= LONGEST_NAME
                && !name.contains(|c: char| c == '/' || c.is_whitespace());
            if !fits {
                out.push(
                    Problem::at(text, at, format!("`{name}` can't be the name of an interface"))
                        .allowed("a name as `ip link` shows it, 1 to 15 characters"),
                );
            } else if !seen.insert(name) {
                out.push(
                    Problem::at(text, at, format!("interface `{name}` is there twice"))
                        .allowed("one [[interface]] each"),
                );
            }
            if interface.probe_ms > LONGEST_PROBE_MS {
                let at = span_of(text, &["interface"], Some(i), "probe_ms");
                let words = "a new client would wait too long for its address";
                out.push(Problem::at(text, at, words).allowed("0 to 300 milliseconds; 250 by default"));
            }
        }
    }

    fn port_problems(&self, text: &str, out: &mut Vec<Problem>) {
        if self.http.port == 0 {
            out.push(
                Problem::at(text, span_of(text, &["http"], None, "port"), "port 0 can't be put into a URL")
                    .allowed("1 to 65535; 8080 by default"),
            );
        }
        for (table, key, port, allowed) in [
            ("tftp", "port", self.tftp.port, "1 to 65535; firmware asks 69 and no other"),
            ("api", "listen", self.api.listen.port(), "an address with a port, as in \"127.0.0.1:8081\""),
        ] {
            if port == 0 {
                let at = span_of(text, &[table], None, key);
                out.push(
                    Problem::at(text, at, "with port 0 nobody would know where to ask").allowed(allowed),
                );
            }
        }
        let http = std::net::IpAddr::V4(self.http.listen);
        let same = self.api.listen.port() == self.http.port
            && (http.is_unspecified()
                || self.api.listen.ip().is_unspecified()
                || http == self.api.listen.ip());
        if same {
            let at =
                span_of(text, &["api"], None, "listen").or_else(|| span_of(text, &["http"], None, "port"));
            out.push(
                Problem::at(
                    text,
                    at,
                    format!(
                        "the API can't share port {} with the machines' HTTP: machines would reach it",
                        self.http.port
                    ),
                )
                .allowed("another port for [api] listen, 8081 by default"),
            );
        }
    }

    fn path_problems(&self, text: &str, out: &mut Vec<Problem>) {
        let empty = |path: Option<&std::path::Path>| path.is_some_and(|p| p.as_os_str().is_empty());
        for (table, key, path, allowed) in [
            (&[][..], "state_dir", Some(self.state_dir.as_path()), "a folder, /var/lib/pristine by default"),
            (&[], "secrets_key", self.secrets_key.as_deref(), "a file, <state_dir>/secrets.key by default"),
            (&["nbp"], "dir", self.nbp.dir.as_deref(), "a folder, <state_dir>/nbp by default"),
            (
                &["api"],
                "token_file",
                self.api.token_file.as_deref(),
                "a file, <state_dir>/api-token by default",
            ),
        ] {
            if empty(path) {
                let at = span_of(text, table, None, key);
                out.push(Problem::at(text, at, format!("{key} is empty")).allowed(allowed));
            }
        }
    }

    fn bound_problems(&self, text: &str, out: &mut Vec<Problem>) {
        let b = &self.bounds;
        for (key, value, most) in [
            ("leases_per_mac", b.leases_per_mac, 1_000_000),
            ("machines", b.machines, 10_000_000),
            ("strangers", b.strangers, 10_000_000),
            ("attempts_per_machine", b.attempts_per_machine, 10_000),
            ("attempts", b.attempts, 10_000_000),
            ("scripts_per_minute", number(b.scripts_per_minute), 100_000),
            ("dhcp_in_work", b.dhcp_in_work, 1_000_000),
            ("dhcp_strangers_per_second", number(b.dhcp_strangers_per_second), 1_000_000),
            ("dhcp_strangers_burst", number(b.dhcp_strangers_burst), 1_000_000),
            ("tftp_transfers", b.tftp_transfers, 20_000),
            ("tftp_transfers_per_client", b.tftp_transfers_per_client, 20_000),
            ("http_connections", b.http_connections, 20_000),
            ("http_connections_per_client", b.http_connections_per_client, 20_000),
            ("api_connections", b.api_connections, 20_000),
        ] {
            if !(1..=most).contains(&value) {
                let at = span_of(text, &["bounds"], None, key);
                out.push(
                    Problem::at(text, at, format!("{value} can't be a bound here"))
                        .allowed(format!("1 to {most}")),
                );
            }
        }
    }

    fn time_problems(&self, text: &str, out: &mut Vec<Problem>) {
        let images = &self.images;
        if !(1..=100_000).contains(&images.scrub_rate) {
            let at = span_of(text, &["images"], None, "scrub_rate");
            let words = format!("{} MiB a second can't be a rate here", images.scrub_rate);
            out.push(Problem::at(text, at, words).allowed("1 to 100000"));
        }
        if (1..3_600).contains(&images.scrub_interval.0) {
            let at = span_of(text, &["images"], None, "scrub_interval");
            let words = format!("{} seconds are too short an interval", images.scrub_interval.0);
            out.push(Problem::at(text, at, words).allowed("1 hour or longer, or 0 for never"));
        }
        let h = &self.http;
        for (key, value) in
            [("head_time", h.head_time), ("body_time", h.body_time), ("stall_time", h.stall_time)]
        {
            if !(1..=3_600).contains(&value.0) {
                let at = span_of(text, &["http"], None, key);
                let words = format!("{} seconds can't be a limit here", value.0);
                out.push(Problem::at(text, at, words).allowed("1 second to 1 hour"));
            }
        }
    }

    fn site_problems(&self, text: &str, out: &mut Vec<Problem>) {
        let served = |mode| self.interfaces.iter().any(|i| i.mode == mode);
        if !self.subnets.is_empty() && !self.interfaces.is_empty() && !served(Mode::Full) {
            let at = self.subnets.first().map(|s| s.span());
            out.push(
                Problem::at(
                    text,
                    at,
                    "no interface is in full mode, so this subnet's addresses go to nobody",
                )
                .allowed("mode = \"full\" for an [[interface]], or no [[subnet]]"),
            );
        }
        for error in self.site().check() {
            out.push(Problem::at(text, self.site_span(text, &error), error.to_string()));
        }
    }

    /// Where the subnet, reservation or key stands that a site error is about.
    fn site_span(&self, text: &str, error: &SiteError) -> Option<Range<usize>> {
        let subnet = |network: Cidr, key: &str| {
            // The later one of two that are the same is the one to correct.
            let i = self.subnets.iter().rposition(|s| s.get_ref().network == network)?;
            span_of(text, &["subnet"], Some(i), key)
        };
        let reservation = |address: Ipv4Addr, key: &str| {
            let i = self.reservations.iter().rposition(|r| r.get_ref().address == address)?;
            span_of(text, &["reservation"], Some(i), key)
        };
        match error {
            SiteError::SubnetsOverlap(_, network) => subnet(*network, "network"),
            SiteError::PoolOutside { network, .. } => subnet(*network, "pools"),
            SiteError::PoolsOverlap(network, ..) | SiteError::PoolTooLarge(network, _) => {
                subnet(*network, "pools")
            }
            SiteError::ExcludesNothing(network, _) => subnet(*network, "exclude"),
            SiteError::RouterOutside(network, _) => subnet(*network, "routers"),
            SiteError::BadValue { network, key, .. } => subnet(*network, key),
            SiteError::BadOption { network, .. } => subnet(*network, "options"),
            SiteError::BadReservation { address, key, .. } => reservation(*address, key),
            SiteError::ReservedTwice(address) | SiteError::TwoForOne(_, address, _) => {
                reservation(*address, "address")
            }
            SiteError::OutOfRange { key, .. } => match key.split_once('.') {
                Some((table, key)) => span_of(text, &[table], None, key),
                None => span_of(text, &["dhcp"], None, key),
            },
        }
    }
}

fn number(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Where the value of `key` stands, in the table `path` (the `index`-th of an array of tables); the
/// table's own head where the key isn't there.
pub(super) fn span_of(text: &str, path: &[&str], index: Option<usize>, key: &str) -> Option<Range<usize>> {
    use toml::de::{DeTable, DeValue};
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut fallback = None;
    for name in path {
        let mut value = table.get(*name)?;
        if let (DeValue::Array(items), Some(i)) = (value.get_ref(), index) {
            value = items.get(i)?;
        }
        fallback = Some(value.span());
        table = match value.get_ref() {
            DeValue::Table(t) => t,
            _ => return fallback,
        };
    }
    table.get(key).map(|v| v.span()).or(fallback)
}
