//! Real clients get, renew, keep over a restart, and release an address: ISC dhclient, busybox udhcpc
//! and dhcpcd, each in a network and mount namespace of its own.

use super::harness::*;
use pristine::{
    dhcp::{Mode, Seconds, Site, Subnet},
    dhcpd::{InterfaceSettings, frame::read_udp},
    lab::{Host, Net, output_within},
    model::{LeaseState, Mac},
    provisioner::{Options, Provisioner, SystemClock},
    store::{ImageStore, Nbps},
    sys::ETH_IPV4,
};
use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

/// A state folder with the real provisioner over it.
struct State {
    dir: PathBuf,
    site: Site,
}

impl State {
    fn new(lease_seconds: u32) -> State {
        let lease = Some(Seconds(lease_seconds));
        let subnet = |router| Subnet { routers: vec![router], lease, ..Subnet::flat(router, 24) };
        let subnets = vec![subnet(SERVER), subnet(RELAY)];
        let site = Site { subnets, min_lease: Seconds(1), ..Site::default() };
        assert_eq!(site.check().len(), 0, "{:?}", site.check());
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pristine-dhcpd-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        State { dir, site }
    }

    /// As after a start of the service: nothing is remembered but what is on disk.
    fn open(&self) -> Provisioner {
        let options = Options { site: self.site.clone(), ..Options::default() };
        let images = ImageStore::open(&self.dir.join("store")).unwrap();
        let nbps = Nbps::load(&self.dir.join("nbp")).unwrap();
        Provisioner::open(options, &self.dir, images, nbps, Arc::new(SystemClock::new())).unwrap()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Address, state and end of the newest lease of a MAC.
fn lease(provisioner: &Provisioner, mac: Mac) -> Option<(Ipv4Addr, LeaseState, i64)> {
    let leases = provisioner.leases().into_iter().filter(|l| l.mac == mac);
    leases.max_by_key(|l| l.expires).map(|l| (l.addr, l.state, l.expires))
}

struct Client {
    get: &'static [&'static str],
    /// Asks again for what it has; `None`: it does so by itself after half of the lease.
    renew: Option<&'static [&'static str]>,
    release: &'static [&'static str],
}

fn run(host: &Host, words: &[&str]) {
    let mut command = host.private(words[0]).unwrap();
    command.args(&words[1..]);
    let output = output_within(command, BOUND * 3).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {}: {text}", output.status);
}

fn address(host: &Host) -> Option<Ipv4Addr> {
    host.addresses("eth0").unwrap().first()?.split('/').next()?.parse().ok()
}

fn lives_with(client: &Client) {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let host = net.client().unwrap();
    let mac = host.mac("eth0").unwrap();
    let state = State::new(if client.renew.is_some() { 600 } else { 10 });

    // Gets one, after one probe.
    let provisioner = state.open();
    let service = Service::start(&server, eth0(), provisioner.clone());
    run(&host, client.get);
    let got = until("an address", || address(&host));
    let (addr, was, ends) = lease(&provisioner, mac).unwrap();
    assert_eq!((addr, was), (got, LeaseState::Bound));
    assert_eq!(service.count("probes"), 1, "{:?}", service.status());
    drop((service, provisioner));

    // Keeps it over a restart of the service, and a renewal costs no probe.
    let provisioner = state.open();
    let service = Service::start(&server, eth0(), provisioner.clone());
    assert_eq!(lease(&provisioner, mac), Some((got, LeaseState::Bound, ends)));
    if let Some(renew) = client.renew {
        run(&host, renew);
    }
    until("a renewal", || lease(&provisioner, mac).filter(|l| l.2 > ends));
    assert_eq!(lease(&provisioner, mac).map(|l| (l.0, l.1)), Some((got, LeaseState::Bound)));
    assert_eq!(address(&host), Some(got));
    assert_eq!(service.count("probes"), 0, "a returning client pays nothing: {:?}", service.status());

    // Gives it back, and gets the same again.
    run(&host, client.release);
    until("the release", || lease(&provisioner, mac).filter(|l| l.1 == LeaseState::Released));
    until("the address is off", || address(&host).is_none().then_some(()));
    run(&host, client.get);
    assert_eq!(until("an address again", || address(&host)), got);
    assert_eq!(service.count("naks"), 0);
}

fn eth0() -> Vec<InterfaceSettings> {
    vec![InterfaceSettings::new("eth0", Mode::Full)]
}

#[test]
fn a_client_that_asks_for_broadcasts_gets_them() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let (host, witness) = (net.client().unwrap(), net.client().unwrap());
    let state = State::new(600);
    let _service = Service::start(&server, eth0(), state.open());
    let wire = Wire::open(&witness, ETH_IPV4);
    run(&host, &["udhcpc", "-i", "eth0", "-B", "-n", "-q"]);
    let got = until("an address", || address(&host));
    let mac = host.mac("eth0").unwrap();
    let broadcast_to = |frame: &[u8]| {
        let udp = read_udp(frame).filter(|udp| udp.to == at([255; 4], 68))?;
        (udp.data.get(28..34) == Some(&mac.0[..])).then(|| udp.data[16..20].to_vec())
    };
    assert_eq!(wire.recv("a third host sees the reply", broadcast_to), got.octets());
}

/// A real relay, with the client's renewals coming by unicast through its router.
#[test]
fn a_client_behind_a_relay_gets_and_renews_an_address_of_its_own_subnet() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let relay = net.host("relay", "198.18.0.2/24").unwrap();
    relay.plug("sw1", "eth1", None, Some("198.18.1.1/24")).unwrap();
    relay.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).unwrap();
    server.run(&["ip", "route", "add", "198.18.1.0/24", "via", "198.18.0.2"]).unwrap();
    let mut dnsmasq = relay.private("dnsmasq").unwrap();
    dnsmasq.args(["--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root"]);
    dnsmasq.args(["--pid-file=/run/relay.pid", "--dhcp-relay=198.18.1.1,198.18.0.1"]);
    let _relay = relay.spawn(dnsmasq, "dnsmasq").unwrap();
    until("the relay listens", || {
        relay.run(&["ss", "-Hlun", "sport = :67"]).unwrap().contains(":67").then_some(())
    });
    let host = net.bare_host("client").unwrap();
    host.plug("sw1", "eth0", None, None).unwrap();
    let mac = host.mac("eth0").unwrap();

    let state = State::new(600);
    let provisioner = state.open();
    let service = Service::start(&server, eth0(), provisioner.clone());
    run(&host, &["udhcpc", "-i", "eth0", "-b", "-p", "/run/udhcpc.pid"]);
    let got = until("an address", || address(&host));
    assert_eq!(got.octets()[..3], [198, 18, 1]);
    assert_eq!(service.count("probes"), 0, "nobody hears ARP through a relay");
    let (_, _, ends) = lease(&provisioner, mac).unwrap();
    run(&host, &["sh", "-c", "kill -USR1 $(cat /run/udhcpc.pid)"]);
    until("a renewal", || lease(&provisioner, mac).filter(|l| l.2 > ends));
    assert_eq!(lease(&provisioner, mac).map(|l| (l.0, l.1)), Some((got, LeaseState::Bound)));
}

#[test]
fn dhclient() {
    lives_with(&Client {
        get: &["dhclient", "-1", "-v", "eth0"],
        renew: None,
        release: &["dhclient", "-r", "-v", "eth0"],
    });
}

#[test]
fn udhcpc() {
    lives_with(&Client {
        get: &["udhcpc", "-i", "eth0", "-b", "-R", "-p", "/run/udhcpc.pid"],
        renew: Some(&["sh", "-c", "kill -USR1 $(cat /run/udhcpc.pid)"]),
        // One signal (-R: release at the end): of two that are pending it may see the end first.
        release: &["sh", "-c", "kill $(cat /run/udhcpc.pid)"],
    });
}

#[test]
fn dhcpcd() {
    lives_with(&Client {
        get: &["dhcpcd", "-4", "eth0"],
        renew: Some(&["dhcpcd", "-4", "-n", "eth0"]),
        // It gives itself ten seconds to end, and calls it an error where a busy machine takes longer.
        release: &[
            "sh",
            "-c",
            "dhcpcd -4 -k eth0 || while pgrep -F $(dhcpcd -4 -P eth0); do sleep 0.1; done",
        ],
    });
}
