//! The host itself: rights, clock, disk, state folder, firewall.

use super::Check;
use crate::{
    config::Config,
    store::{
        db::Db,
        durable::{NO_ROOM, free_bytes},
    },
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Capabilities that the service needs, by bit (linux/capability.h).
const NEEDED: [(u32, &str, &str); 3] = [
    (10, "CAP_NET_BIND_SERVICE", "ports 67, 69 and 4011"),
    (12, "CAP_NET_ADMIN", "answers to machines that have no address yet"),
    (13, "CAP_NET_RAW", "address probes and router advertisements"),
];
/// Free bytes below which little, or nothing, works.
const LITTLE: u64 = 2 << 30;
/// 2026-01-01: a clock before it was never set.
const BUILT: u64 = 1_767_225_600;

/// The running service of that state folder, if there is one.
pub fn service_pid(state_dir: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(state_dir.join("pristine.lock")).ok()?.trim().parse().ok()?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    comm.trim().starts_with("pristine").then_some(pid)
}

pub fn checks(config: &Config, service: Option<u32>) -> Vec<Check> {
    let mut out = vec![match service {
        Some(pid) => Check::ok("service", format!("runs as process {pid}")),
        None => Check::ok("service", "does not run (checking what it will find)"),
    }];
    out.push(capabilities(service));
    out.push(clock());
    out.extend(state_folder(config));
    out.extend(firewall(config));
    out
}

fn capabilities(service: Option<u32>) -> Check {
    let who = service.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let status = fs::read_to_string(format!("/proc/{who}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let Some(effective) = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()) else {
        return Check::warn("capabilities", "/proc does not tell them", "run this as the service's user");
    };
    let missing = missing_capabilities(effective);
    if missing.is_empty() {
        return Check::ok("capabilities", "all that are needed");
    }
    let names: Vec<&str> = missing.iter().map(|(_, name, _)| *name).collect();
    let whys: Vec<String> = missing.iter().map(|(_, name, why)| format!("{name} for {why}")).collect();
    Check::fail(
        "capabilities",
        format!("missing: {}", whys.join(", ")),
        format!("run the service (and this) as root, or grant it AmbientCapabilities={}", names.join(" ")),
    )
}

fn missing_capabilities(effective: u64) -> Vec<&'static (u32, &'static str, &'static str)> {
    NEEDED.iter().filter(|(bit, ..)| effective & (1 << bit) == 0).collect()
}

fn clock() -> Check {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let shown = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
    if now.as_secs() < BUILT {
        return Check::fail(
            "clock",
            format!("says {shown}"),
            "set it: leases and boot records carry its times",
        );
    }
    match crate::sys::clock_synchronised() {
        Some(false) => Check::warn(
            "clock",
            format!("says {shown}, but nothing keeps it in step"),
            "run systemd-timesyncd, chrony or ntpd, so that times on record can be trusted",
        ),
        Some(true) => Check::ok("clock", format!("{shown}, synchronised")),
        None => Check::ok("clock", format!("{shown}")),
    }
}

fn state_folder(config: &Config) -> Vec<Check> {
    let dir = &config.state_dir;
    let mut out = Vec::new();
    let there = existing_parent(dir);
    let writable = rustix::fs::access(&there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    let name = "state folder";
    out.push(match (writable, dir.is_dir()) {
        _ if !there.is_dir() => Check::fail(
            name,
            format!("{} is not a folder", there.display()),
            "move it away, or set state_dir",
        ),
        (Err(e), _) => Check::fail(
            name,
            format!("{} can't be written: {e}", there.display()),
            "run the service as a user who may, or set state_dir",
        ),
        (Ok(()), false) => Check::ok(name, format!("{} will be made at the first start", dir.display())),
        (Ok(()), true) => match fs::metadata(dir).map(|m| m.permissions().mode() & 0o7777) {
            Ok(mode) if mode & 0o022 != 0 => Check::warn(
                name,
                format!("{} can be written by others (mode {mode:04o})", dir.display()),
                format!("chmod go-w {}: whoever writes there decides what machines run", dir.display()),
            ),
            _ => Check::ok(name, format!("{} is there and can be written", dir.display())),
        },
    });
    out.extend(database(dir));
    let token = config.token_file();
    if let Ok(meta) = fs::metadata(&token)
        && meta.permissions().mode() & 0o077 != 0
    {
        out.push(Check::fail(
            "API token",
            format!(
                "{} can be read by others (mode {:04o})",
                token.display(),
                meta.permissions().mode() & 0o7777
            ),
            format!("delete it and start the service again: it makes a new one (rm {})", token.display()),
        ));
    }
    out.push(match free_bytes(&there) {
        Some(free) => {
            let shown = format!("{} MB free at {}", free / 1_000_000, there.display());
            let advice =
                "make room: images are hundreds of megabytes, and no lease is given that can't be saved";
            match free {
                0..NO_ROOM => Check::fail("disk", shown, advice),
                NO_ROOM..LITTLE => Check::warn("disk", shown, advice),
                _ => Check::ok("disk", shown),
            }
        }
        None => Check::warn(
            "disk",
            format!("the system doesn't say how much is free at {}", there.display()),
            "look at the file system",
        ),
    });
    out
}

/// Whether the next start could read what the last one wrote.
fn database(dir: &Path) -> Option<Check> {
    let name = "state database";
    match Db::open_read_only(dir) {
        Ok(None) => None,
        Ok(Some(on_record)) => Some(Check::ok(
            name,
            format!("{} machines, {} leases on record", on_record.machines.len(), on_record.leases.len()),
        )),
        Err(error) => Some(Check::fail(name, error.to_string(), "the service will not start before that")),
    }
}

/// The folder itself, or the nearest one above it that exists.
fn existing_parent(dir: &Path) -> PathBuf {
    let mut at = dir.to_owned();
    while !at.exists() {
        match at.parent() {
            Some(up) if !up.as_os_str().is_empty() => at = up.to_owned(),
            _ => return PathBuf::from("."),
        }
    }
    at
}

/// A hint only: whether the rules let our ports through is for a person to read.
fn firewall(config: &Config) -> Option<Check> {
    let run =
        Command::new("nft").args(["list", "ruleset"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let rules = String::from_utf8_lossy(&run.ok().filter(|o| o.status.success())?.stdout).into_owned();
    let unnamed = unnamed_ports(&rules, &[67, 69, config.http.port])?;
    if unnamed.is_empty() {
        return Some(Check::ok("firewall", "nftables drops input, and its rules name our ports"));
    }
    let list: Vec<String> = unnamed.iter().map(u16::to_string).collect();
    Some(Check::warn(
        "firewall",
        format!("nftables drops input by default, and no rule names port {}", list.join(", ")),
        format!(
            "let machines in on the served links: udp dport {{ 67, 69, 4011 }} and tcp dport {} \
             (TFTP also answers from high ports)",
            config.http.port
        ),
    ))
}

/// Where a chain drops input by default: those of `ports` that no rule names.
fn unnamed_ports(rules: &str, ports: &[u16]) -> Option<Vec<u16>> {
    rules.lines().find(|l| l.contains("hook input") && l.contains("policy drop"))?;
    let named = |port: &u16| {
        rules.lines().filter(|l| l.contains("dport")).any(|l| {
            l.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| {
                w == port.to_string()
                    || matches!((w, port), ("bootps", 67) | ("tftp", 69) | ("http-alt", 8080))
            })
        })
    };
    Some(ports.iter().copied().filter(|p| !named(p)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::{super::Level, *};
    use crate::store::testing::TempDir;

    #[test]
    fn capabilities_are_read_by_their_bits() {
        assert!(missing_capabilities(u64::MAX).is_empty());
        let missing: Vec<_> = missing_capabilities(1 << 10 | 1 << 12).iter().map(|m| m.1).collect();
        assert_eq!(missing, ["CAP_NET_RAW"]);
        assert_eq!(missing_capabilities(0).len(), 3);
    }

    #[test]
    fn a_file_in_place_of_the_folder_and_a_damaged_database_are_named() {
        let dir = TempDir::new();
        let at = |state_dir: PathBuf| state_folder(&Config { state_dir, ..Config::default() });
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(at(file).iter().any(|c| c.level == Level::Fail && c.found.ends_with("is not a folder")));
        let state = dir.path().to_owned();
        assert!(at(state.clone()).iter().all(|c| c.name != "state database"), "none is no fault");
        fs::write(state.join("pristine.db"), "garbage").unwrap();
        let found = at(state).into_iter().find(|c| c.name == "state database").unwrap();
        assert!(found.level == Level::Fail && found.found.contains("is damaged"), "{found:?}");
    }

    #[test]
    fn a_firewall_is_mentioned_only_where_it_drops() {
        let accept = "chain input {\n type filter hook input priority 0; policy accept;\n}";
        assert_eq!(unnamed_ports(accept, &[67]), None);
        let drop = "chain input {\n type filter hook input priority 0; policy drop;\n udp dport { 67, 4011 } accept\n}";
        assert_eq!(unnamed_ports(drop, &[67, 69, 8080]), Some(vec![69, 8080]));
    }
}
