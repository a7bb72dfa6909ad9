//! Others on the link: hosts that squat on addresses, IPv6 stacks that look for a router, other
//! DHCP servers.

use super::harness::*;
use pristine::{
    dhcp::{Action, Mode, Probed, Reason},
    dhcpd::{
        InterfaceSettings, WatchPace, arp, detect_other_servers,
        frame::{self, checksum, ethernet},
        ra::{self, Heard},
    },
    lab::{Host, Net},
    model::Mac,
    sys::{ETH_ARP, ETH_IPV4, ETH_IPV6},
};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

fn eth0(mode: Mode) -> Vec<InterfaceSettings> {
    vec![InterfaceSettings::new("eth0", mode)]
}

/// Wants 198.18.0.50 probed, then 198.18.0.51, and offers the first that is free.
fn careful(seen: Arc<Mutex<Vec<Probed>>>) -> Script {
    Script::new(move |link, req, probed| {
        seen.lock().unwrap().extend(probed);
        match probed {
            None => Action::Probe(Ipv4Addr::new(198, 18, 0, 50)),
            Some(Probed::Free(ip)) => reply(link, req, ip, hardware(req, ip)),
            Some(Probed::InUse(ip)) if ip.octets()[3] == 50 => Action::Probe(Ipv4Addr::new(198, 18, 0, 51)),
            Some(Probed::InUse(_)) => Action::Silent(Reason::AllInUse),
        }
    })
}

#[test]
fn an_address_that_somebody_squats_on_is_not_offered() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let _squatter = net.host("squatter", "198.18.0.50/24").unwrap();
    let client = net.client().unwrap();
    let seen = Arc::default();
    let service = Service::start(&server, eth0(Mode::Full), careful(Arc::clone(&seen)));
    let wire = Wire::open(&client, ETH_IPV4);
    wire.discover(wire.mac, 1);
    let frame = wire.reply(1);
    let free = Ipv4Addr::new(198, 18, 0, 51);
    assert_eq!(frame[30..34], free.octets());
    let squatted = Ipv4Addr::new(198, 18, 0, 50);
    assert_eq!(*seen.lock().unwrap(), [Probed::InUse(squatted), Probed::Free(free)]);
    assert_eq!((service.count("probes"), service.count("probes_in_use")), (2, 1));
}

#[test]
fn a_client_that_still_has_the_address_itself_is_no_conflict() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.host("client", "198.18.0.50/24").unwrap();
    let seen = Arc::default();
    let _service = Service::start(&server, eth0(Mode::Full), careful(Arc::clone(&seen)));
    let wire = Wire::open(&client, ETH_IPV4);
    wire.discover(wire.mac, 1);
    wire.reply(1);
    assert_eq!(*seen.lock().unwrap(), [Probed::Free(Ipv4Addr::new(198, 18, 0, 50))]);
}

#[test]
fn our_own_address_is_never_free() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.50/24").unwrap();
    let client = net.client().unwrap();
    let _service = Service::start(&server, eth0(Mode::Full), careful(Arc::default()));
    let wire = Wire::open(&client, ETH_IPV4);
    wire.discover(wire.mac, 1);
    assert_eq!(wire.reply(1)[30..34], [198, 18, 0, 51]);
}

#[test]
fn a_hundred_new_clients_are_probed_for_at_the_same_time() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let script = Script::new(|link, req, probed| {
        let ip = Ipv4Addr::new(198, 18, 0, 100 + req.mac().0[5]);
        match probed {
            None => Action::Probe(ip),
            Some(_) => reply(link, req, ip, hardware(req, ip)),
        }
    });
    let service = Service::start(&server, eth0(Mode::Full), script);
    // Replies go to the MACs of the packets, which are not the interface's: the ARP questions are
    // what this wire can see.
    let (wire, arp) = (Wire::open(&client, ETH_IPV4), Wire::open(&client, ETH_ARP));
    for n in 0..100 {
        wire.discover(Mac([2, 9, 9, 9, 9, n]), n.into());
    }
    let most = until("all replies", || {
        let status = service.status();
        (status.counts["offers"] == 100).then_some(status.counts["probes"])
    });
    assert_eq!(most, 100);
    until("nothing is left in work", || (service.status().in_work == 0).then_some(()));
    let probe = arp.recv("a probe", arp::read);
    assert_eq!(probe.sender_ip, Ipv4Addr::UNSPECIFIED, "nobody's ARP cache learns from a probe");
}

/// A router solicitation from `ip`.
fn solicitation(wire: &Wire, ip: Ipv6Addr) -> Vec<u8> {
    let mut icmp = [133, 0, 0, 0, 0, 0, 0, 0];
    let sum = checksum(&[&ip.octets(), &ra::ALL_ROUTERS.octets(), &[0, 0, 0, 8, 0, 0, 0, 58], &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(ra::ALL_ROUTERS_MAC, wire.mac, ETH_IPV6, 48);
    frame.extend([0x60, 0, 0, 0, 0, 8, 58, 255]);
    frame.extend(ip.octets());
    frame.extend(ra::ALL_ROUTERS.octets());
    frame.extend(icmp);
    frame
}

fn advertised(frame: &[u8]) -> Option<(Mac, u16)> {
    match ra::read(frame)? {
        Heard::Advertisement { from, lifetime } => Some((from.mac, lifetime)),
        Heard::Solicitation(_) => None,
    }
}

fn solicit(wire: &Wire) {
    wire.send(&solicitation(wire, "fe80::1234".parse().unwrap()));
}

#[test]
fn who_looks_for_a_router_hears_at_once_that_there_is_none() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let service = Service::start(&server, eth0(Mode::Full), careful(Arc::default()));
    let wire = Wire::open(&client, ETH_IPV6);
    solicit(&wire);
    let to_me = |frame: &[u8]| advertised(frame).filter(|_| frame[..6] == wire.mac.0);
    assert_eq!(wire.recv("an answer", to_me), (server.mac("eth0").unwrap(), 0));
    // Without an address yet, it is answered through all nodes.
    wire.send(&solicitation(&wire, Ipv6Addr::UNSPECIFIED));
    let to_all = |frame: &[u8]| advertised(frame).filter(|_| frame[..6] == [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(wire.recv("an answer to all", to_all), (server.mac("eth0").unwrap(), 0));
    assert!(service.count("solicitations") >= 2);
}

/// A real IPv6 stack accepts it: the kernel counts a router advertisement and gets no route.
#[test]
fn a_real_stack_takes_no_route_and_no_address_from_it() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let _service = Service::start(&server, eth0(Mode::Full), careful(Arc::default()));
    let counted = || {
        let text = client.run(&["cat", "/proc/net/dev_snmp6/eth0"]).unwrap();
        let line = text.lines().find(|l| l.starts_with("Icmp6InRouterAdvertisements"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().filter(|n| *n > 0)
    };
    let wire = Wire::open(&client, ETH_IPV6);
    until("the stack counts an advertisement", || {
        wire.send(&solicitation(&wire, Ipv6Addr::UNSPECIFIED));
        counted()
    });
    let routes = client.run(&["ip", "-6", "route", "show", "default"]).unwrap();
    assert_eq!(routes.trim(), "");
    let addresses =
        client.run(&["ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"]).unwrap();
    assert_eq!(addresses.trim(), "");
}

#[test]
fn no_advertisement_beside_a_real_router_or_in_proxy_mode() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let ours = server.mac("eth0").unwrap();
    let wire = Wire::open(&client, ETH_IPV6);
    let quiet = || wire.recv_within(Duration::from_millis(300), |f| advertised(f).filter(|a| a.0 == ours));

    let proxy = Service::start(&server, eth0(Mode::Proxy), careful(Arc::default()));
    solicit(&wire);
    assert_eq!(quiet(), None);
    drop(proxy);

    let full = Service::start(&server, eth0(Mode::Full), careful(Arc::default()));
    solicit(&wire);
    wire.recv("an answer before there is a router", |f| advertised(f).filter(|a| a.0 == ours));
    // Our own advertisement with another lifetime is a router's.
    let mut router = ra::advertisement(Mac([2, 7, 7, 7, 7, 7]), None);
    router[60..62].copy_from_slice(&1800u16.to_be_bytes());
    wire.send(&router);
    let before = full.count("solicitations");
    while quiet().is_some() {}
    solicit(&wire);
    until("the solicitation is heard", || (full.count("solicitations") > before).then_some(()));
    assert_eq!(quiet(), None);
}

#[test]
fn a_client_that_chose_another_server_is_noted() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let script = Script::new(|_, req, _| {
        assert_eq!(req.server_id(), Some(Ipv4Addr::new(198, 18, 0, 9)));
        Action::Silent(Reason::OtherServer)
    });
    let service = Service::start(&server, eth0(Mode::Full), script);
    let wire = Wire::open(&client, ETH_IPV4);
    let mut request = discover(wire.mac, 1, Ipv4Addr::UNSPECIFIED);
    request.truncate(240);
    request.extend([53, 1, 3, 50, 4, 198, 18, 0, 200, 54, 4, 198, 18, 0, 9, 255]);
    let (from, to) = (at([0; 4], 68), at([255; 4], 67));
    wire.send(&frame::udp_frame(wire.mac, Mac([0xff; 6]), from, to, &request).unwrap());
    until("it is noted", || (service.count("other_server") == 1).then_some(()));
    assert_eq!(service.status().silent[&Reason::OtherServer.to_string()], 1);
}

fn detect(host: &Host) -> Vec<Ipv4Addr> {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(detect_other_servers("eth0", Duration::from_secs(4))).unwrap()
    })
    .unwrap()
}

#[test]
fn another_dhcp_server_is_found_and_nothing_is_leased() {
    let net = Net::new().unwrap();
    let doctor = net.host("doctor", "198.18.0.1/24").unwrap();
    assert_eq!(detect(&doctor), [] as [Ipv4Addr; 0]);

    let other = net.host("other", "198.18.0.9/24").unwrap();
    let dnsmasq = Dnsmasq::start(&other);
    assert_eq!(detect(&doctor), [Ipv4Addr::new(198, 18, 0, 9)]);
    assert_eq!(std::fs::read_to_string(dnsmasq.leases()).unwrap_or_default(), "");
}

/// In full mode, within the pace that a busy link has; the same with a slow pace as soon as a machine
/// asks. A second server of ours is another one, too.
#[test]
fn another_server_that_appears_while_serving_is_an_alarm_until_it_is_gone() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let pace = WatchPace {
        quiet: Duration::from_secs(600),
        busy: Duration::from_millis(50),
        alarmed: Duration::from_millis(50),
        gone: Duration::from_secs(2),
    };
    let settings = |mode| vec![InterfaceSettings { watch_others: Some(pace), ..eth0(mode).remove(0) }];
    let service =
        Service::start(&server, settings(Mode::Full), Script::new(|_, _, _| Action::Silent(Reason::Off)));
    let wire = Wire::open(&client, ETH_IPV4);
    let others = || service.monitor.other_servers();
    wire.discover(wire.mac, 1);
    until("the client is heard", || (service.count("received") == 1).then_some(()));
    assert!(others().is_empty());

    let other = net.host("other", "198.18.0.9/24").unwrap();
    let dnsmasq = Dnsmasq::start(&other);
    // The next question is ten minutes away, unless a machine asks.
    wire.discover(wire.mac, 2);
    let (link, found, words) = until("the alarm", || others().pop());
    assert_eq!((link.as_str(), found.server), ("eth0", Ipv4Addr::new(198, 18, 0, 9)));
    assert_eq!(found.mac, Some(other.mac("eth0").unwrap()));
    assert!(words.contains("198.18.0.9") && words.contains("mode = \"proxy\""), "{words}");
    assert_eq!(service.status().other_servers.len(), 1);
    drop(dnsmasq);
    until("the end of the alarm", || others().is_empty().then_some(()));

    // Beside a server of addresses is where a proxy belongs.
    drop(service);
    let _dnsmasq = Dnsmasq::start(&other);
    let script = Script::new(|_, _, _| Action::Silent(Reason::Off));
    let proxy = Service::start(&server, settings(Mode::Proxy), script);
    wire.discover(wire.mac, 3);
    wire.recv("dnsmasq's offer", |frame| is_reply(frame, 3));
    assert!(proxy.status().other_servers.is_empty());
}
