//! Real clients get, renew, keep over a restart, and release an address: ISC dhclient, busybox udhcpc
//! and dhcpcd, each in a network and mount namespace of its own.

use super::harness::*;
use pristine::{
    dhcp::{Action, Leases, Link, Mode, Probed, Request, Seconds, Site, Subnet, respond},
    dhcpd::{Answer, InterfaceSettings, frame::read_udp},
    lab::{Host, Net, output_within},
    model::{LeaseState, Mac},
    netboot::NbpAnswer,
    sys::ETH_IPV4,
};
use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

/// The pure DHCP over a table in memory, as the provisioner does with a durable one.
#[derive(Clone)]
struct Table {
    site: Arc<Site>,
    leases: Arc<Mutex<Leases>>,
}

impl Table {
    fn new(lease_seconds: u32) -> Table {
        let lease = Some(Seconds(lease_seconds));
        let subnet = |router| Subnet { routers: vec![router], lease, ..Subnet::flat(router, 24) };
        let subnets = vec![subnet(SERVER), subnet(RELAY)];
        let site = Site { subnets, min_lease: Seconds(1), ..Site::default() };
        assert_eq!(site.check().len(), 0, "{:?}", site.check());
        let leases = Arc::new(Mutex::new(Leases::new(site.bounds)));
        Table { site: Arc::new(site), leases }
    }

    /// State and end of the newest lease of a MAC.
    fn lease(&self, mac: Mac) -> Option<(Ipv4Addr, LeaseState, i64)> {
        let leases = self.leases.lock().unwrap();
        leases.by_mac(mac).max_by_key(|l| l.expires).map(|l| (l.addr, l.state, l.expires))
    }
}

impl Answer for Table {
    async fn dhcp(&self, link: &Link, req: &Request, probed: Option<Probed>) -> Action {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let (boot, now) = (NbpAnswer::AddressOnly, now.as_millis() as i64);
        let mut leases = self.leases.lock().unwrap();
        respond(&self.site, &mut leases, link, req, &boot, false, probed, now).action
    }
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
    let table = Table::new(if client.renew.is_some() { 600 } else { 10 });
    let start = || Service::start(&server, eth0(), table.clone());

    // Gets one, after one probe.
    let service = start();
    run(&host, client.get);
    let got = until("an address", || address(&host));
    let (addr, state, ends) = table.lease(mac).unwrap();
    assert_eq!((addr, state), (got, LeaseState::Bound));
    assert_eq!(service.count("probes"), 1, "{:?}", service.status());
    drop(service);

    // Keeps it over a restart of the service, and a renewal costs no probe.
    let service = start();
    if let Some(renew) = client.renew {
        run(&host, renew);
    }
    until("a renewal", || table.lease(mac).filter(|l| *l == (got, LeaseState::Bound, l.2) && l.2 > ends));
    assert_eq!(address(&host), Some(got));
    assert_eq!(service.count("probes"), 0, "a returning client pays nothing: {:?}", service.status());

    // Gives it back, and gets the same again.
    run(&host, client.release);
    until("the release", || table.lease(mac).filter(|l| l.1 == LeaseState::Released));
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
    let _service = Service::start(&server, eth0(), Table::new(600));
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

    let table = Table::new(600);
    let service = Service::start(&server, eth0(), table.clone());
    run(&host, &["udhcpc", "-i", "eth0", "-b", "-p", "/run/udhcpc.pid"]);
    let got = until("an address", || address(&host));
    assert_eq!(got.octets()[..3], [198, 18, 1]);
    assert_eq!(service.count("probes"), 0, "nobody hears ARP through a relay");
    let (_, _, ends) = table.lease(mac).unwrap();
    run(&host, &["sh", "-c", "kill -USR1 $(cat /run/udhcpc.pid)"]);
    until("a renewal", || table.lease(mac).filter(|l| *l == (got, LeaseState::Bound, l.2) && l.2 > ends));
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
        get: &["udhcpc", "-i", "eth0", "-b", "-p", "/run/udhcpc.pid"],
        renew: Some(&["sh", "-c", "kill -USR1 $(cat /run/udhcpc.pid)"]),
        release: &["sh", "-c", "kill -USR2 $(cat /run/udhcpc.pid); kill $(cat /run/udhcpc.pid)"],
    });
}

#[test]
fn dhcpcd() {
    lives_with(&Client {
        get: &["dhcpcd", "-4", "eth0"],
        renew: Some(&["dhcpcd", "-4", "-n", "eth0"]),
        release: &["dhcpcd", "-4", "-k", "eth0"],
    });
}
