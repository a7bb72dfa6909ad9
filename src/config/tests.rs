#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use super::*;
use std::path::Path;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("p.toml")).map_err(|e| e.to_string())
}

fn wrong(text: &str) -> String {
    parse(text).expect_err("this should be refused")
}

#[test]
fn nothing_said_is_all_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.http.port, 8080);
    assert_eq!(config.api.listen, API_LISTEN);
    assert_eq!(config.token_file(), Path::new("/var/lib/pristine/api-token"));
    assert_eq!(config.nbp_dir(), Path::new("/var/lib/pristine/nbp"));
    assert_eq!(config.unknown, Unknown::Default);
}

#[test]
fn each_error_names_line_column_key_fault_and_what_is_allowed() {
    for (name, text) in [
        ("unknown_key", "[http]\nprot = 8080\n"),
        ("unknown_key_far", "colour = \"red\"\n"),
        ("unknown_table", "[htpp]\nport = 1\n"),
        ("unknown_in_interface", "[[interface]]\nname = \"eth1\"\nmod = \"proxy\"\n"),
        ("bad_variant", "[[interface]]\nname = \"eth1\"\nmode = \"prxy\"\n"),
        ("bad_type", "[http]\nport = \"8080\"\n"),
        ("out_of_range", "[http]\nport = 80800\n"),
        ("bad_address", "[http]\nlisten = \"localhost\"\n"),
        ("missing_key", "[[interface]]\nmode = \"full\"\n"),
        ("syntax", "[http]\nport 8080\n"),
        ("twice", "[http]\nport = 1\nport = 2\n"),
        ("bad_cidr", "[[subnet]]\nnetwork = \"198.18.0.5/24\"\n"),
        ("bad_pool", "[[subnet]]\nnetwork = \"198.18.0.0/24\"\npools = [\"198.18.1.10-198.18.1.20\"]\n"),
        ("overlap", "[[subnet]]\nnetwork = \"198.18.0.0/16\"\n\n[[subnet]]\nnetwork = \"198.18.3.0/24\"\n"),
        (
            "reserved_twice",
            "[[subnet]]\nnetwork = \"198.18.0.0/24\"\n[[reservation]]\nmac = \"52:54:00:00:00:01\"\naddress = \"198.18.0.9\"\n\
             [[reservation]]\nmac = \"52:54:00:00:00:02\"\naddress = \"198.18.0.9\"\n",
        ),
        ("bad_duration", "[dhcp]\nlease = \"soon\"\n"),
        ("short_lease", "[dhcp]\nlease = 1\n"),
        ("bad_unknown", "unknown = \"ignroe\"\n"),
        ("same_port", "[api]\nlisten = \"0.0.0.0:8080\"\n"),
        ("interface_twice", "[[interface]]\nname = \"eth1\"\n[[interface]]\nname = \"eth1\"\n"),
        ("bad_name", "[[interface]]\nname = \"a name far too long\"\n"),
        ("several", "[http]\nport = 0\n[bounds]\nknown_reserve_percent = 90\n"),
        (
            "no_full",
            "[[interface]]\nname = \"eth1\"\nmode = \"proxy\"\n[[subnet]]\nnetwork = \"198.18.0.0/24\"\n",
        ),
        ("bounds", "[bounds]\nmachines = 0\n"),
        ("no_word", "unknown = 3\n"),
        ("no_text", "state_dir = 5\n"),
        ("no_table", "http = 5\n"),
        ("one_bracket", "[interface]\nname = \"eth1\"\n"),
        ("no_port", "[tftp]\nport = 0\n[api]\nlisten = \"127.0.0.1:0\"\n"),
        ("empty_path", "[nbp]\ndir = \"\"\n[api]\ntoken_file = \"\"\n"),
        (
            "far_route",
            "[[subnet]]\nnetwork = \"198.18.0.0/24\"\n[[subnet.routes]]\nto = \"198.19.0.0/16\"\nvia = \"198.18.9.1\"\n",
        ),
        (
            "reserved_for_nobody",
            "[[subnet]]\nnetwork = \"198.18.0.0/24\"\n[[reservation]]\nmac = \"ff:ff:ff:ff:ff:ff\"\naddress = \"198.18.0.9\"\n",
        ),
        ("scrub", "[images]\nscrub_rate = 0\nscrub_interval = \"5m\"\n"),
        ("http_time", "[http]\nstall_time = \"2h\"\n"),
        ("connections", "[bounds]\nhttp_connections = 0\ntftp_transfers = 1000000\n"),
        ("probe", "[[interface]]\nname = \"eth1\"\nprobe_ms = 5000\n"),
    ] {
        insta::assert_snapshot!(name, wrong(text));
    }
}

#[test]
fn what_show_prints_reads_back_as_the_same() {
    let text = include_str!("../../docs/pristine.toml");
    let config = parse(text).unwrap();
    let shown = config.show().unwrap();
    let again = parse(&shown).unwrap();
    assert_eq!(again.show().unwrap(), shown);
    assert!(shown.contains("router_advertisement = true"), "{shown}");
}

/// The commented example: every commented-out key in it is right as well.
#[test]
fn the_example_is_right_with_and_without_its_comments() {
    let text = include_str!("../../docs/pristine.toml");
    parse(text).unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(rest) if !rest.starts_with(' ') => rest,
            Some(_) => "",
            None => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let config = parse(&uncommented).unwrap();
    assert!(config.interfaces.len() > 1 && config.reservations.len() > 1, "the example shows little");
}

#[test]
fn the_document_describes_every_key_and_no_other() {
    let doc = include_str!("../../docs/configuration.md");
    let keys = all_keys();
    assert!(keys.len() > 40, "only {} keys were found: the way of asking serde broke", keys.len());
    let mut table = String::new();
    let mut described = std::collections::BTreeSet::new();
    for line in doc.lines() {
        if let Some(head) = line.strip_prefix("## ") {
            table = head.split('`').nth(1).unwrap_or("").trim_matches(['[', ']']).to_owned();
        }
        if let Some(key) = line.strip_prefix("| `").and_then(|l| l.split('`').next()) {
            described.insert((table.clone(), key.to_owned()));
        }
    }
    let keys: std::collections::BTreeSet<_> = keys
        .into_iter()
        .map(|(t, k)| (t.to_owned(), k))
        // Heads of their own.
        .filter(|(t, k)| !keys_of_tables().contains(&(t.as_str(), k.as_str())))
        .collect();
    let missing: Vec<_> = keys.difference(&described).collect();
    let stale: Vec<_> = described.difference(&keys).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "missing in the document: {missing:?}; there but no key: {stale:?}"
    );
}

fn keys_of_tables() -> &'static [(&'static str, &'static str)] {
    &[
        ("", "http"),
        ("", "tftp"),
        ("", "api"),
        ("", "nbp"),
        ("", "images"),
        ("", "dhcp"),
        ("", "bounds"),
        ("", "interface"),
        ("", "subnet"),
        ("", "reservation"),
        ("subnet", "routes"),
        ("subnet", "options"),
    ]
}
