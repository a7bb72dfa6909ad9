//! What leaves on the wire for each kind of destination, and what bounds hold.

use super::harness::*;
use pristine::{
    dhcp::{Action, Destination, Mode, Port},
    dhcpd::{InterfaceSettings, LinkBounds, frame::read_udp},
    lab::Net,
    model::Mac,
    sys::{ETH_ARP, ETH_IPV4},
};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, UdpSocket},
    sync::{Mutex, mpsc},
    time::Duration,
};

const OFFERED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 77);

fn eth0() -> Vec<InterfaceSettings> {
    vec![InterfaceSettings::new("eth0", Mode::Full)]
}

#[test]
fn a_client_without_an_address_gets_a_frame_to_its_mac_and_no_arp_question() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let (wire, arp) = (Wire::open(&client, ETH_IPV4), Wire::open(&client, ETH_ARP));
    let _service = Service::start(&server, eth0(), Script::offers(OFFERED, |r| hardware(r, OFFERED)));
    wire.discover(wire.mac, 7);
    let frame = wire.reply(7);
    assert_eq!(frame[..6], wire.mac.0);
    assert_eq!(frame[6..12], server.mac("eth0").unwrap().0);
    let udp = read_udp(&frame).unwrap();
    assert_eq!((udp.from, udp.to), (at([198, 18, 0, 1], 67), at(OFFERED.octets(), 68)));
    let asked = |frame: &[u8]| pristine::dhcpd::arp::read(frame).filter(|a| a.target_ip == OFFERED);
    assert_eq!(arp.recv_within(Duration::from_millis(50), asked), None);
}

#[test]
fn a_broadcast_reply_reaches_everybody_from_our_address() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let wire = Wire::open(&client, ETH_IPV4);
    let to = |_: &_| Destination::Broadcast { port: 68 };
    let _service = Service::start(&server, eth0(), Script::offers(OFFERED, to));
    wire.discover(wire.mac, 8);
    let frame = wire.reply(8);
    assert_eq!(frame[..6], [0xff; 6]);
    let udp = read_udp(&frame).unwrap();
    assert_eq!((udp.from, udp.to), (at([198, 18, 0, 1], 67), at([255; 4], 68)));
}

#[test]
fn a_relay_is_answered_where_it_asked_from_our_address() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    // A second address on the link: the reply must come from the one that option 54 names.
    server.address("eth0", "198.18.1.1/24").unwrap();
    let relay = net.host("relay", "198.18.1.9/24").unwrap();
    let to = |r: &pristine::dhcp::Request| Destination::Relay(at(r.giaddr().octets(), 67));
    let service = Service::start(&server, eth0(), Script::offers(OFFERED, to));
    let giaddr = Ipv4Addr::new(198, 18, 1, 9);
    let (len, from) = relay
        .enter(|| {
            let socket = std::net::UdpSocket::bind((giaddr, 67)).unwrap();
            socket.set_read_timeout(Some(BOUND)).unwrap();
            socket.send_to(&discover(Mac([2, 0, 0, 0, 0, 9]), 9, giaddr), "198.18.1.1:67").unwrap();
            let mut buffer = [0; 1500];
            socket.recv_from(&mut buffer).unwrap()
        })
        .unwrap();
    assert!(len > 240);
    assert_eq!(from, "198.18.0.1:67".parse().unwrap());
    until("it is counted", || (service.count("offers") == 1).then_some(()));
}

/// Two relay agents, one of which asks for many machines at once, of which each third is told more.
#[test]
fn replies_to_one_relay_that_leave_together_arrive_one_by_one() {
    const MANY: u32 = 200;
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let relay = net.host("relay", "198.18.0.9/24").unwrap();
    relay.address("eth0", "198.18.0.8/24").unwrap();
    let wire = Wire::open(&relay, ETH_IPV4);
    let (go, held) = mpsc::channel();
    let held = Mutex::new(held);
    let length = |xid: u32| if xid.is_multiple_of(3) { 400 } else { 300 };
    let script = Script::new(move |link, req, _| {
        if req.xid() == 0 {
            // So that the others wait in the queue when it looks there again.
            held.lock().unwrap().recv().unwrap();
        }
        let to = Destination::Relay(at(req.giaddr().octets(), 67));
        let mut action = reply(link, req, OFFERED, to);
        if let Action::Reply(reply) = &mut action {
            reply.bytes.resize(length(req.xid()), 0);
        }
        action
    });
    let service = Service::start(&server, eth0(), script);
    relay
        .enter(|| {
            let [busy, idle] = [9, 8].map(|n| {
                let giaddr = Ipv4Addr::new(198, 18, 0, n);
                let socket = std::net::UdpSocket::bind((giaddr, 67)).unwrap();
                socket.set_read_timeout(Some(BOUND)).unwrap();
                (giaddr, socket)
            });
            let asks = |(giaddr, socket): &(Ipv4Addr, UdpSocket), xid: u32| {
                let [.., a, b] = xid.to_be_bytes();
                let request = discover(Mac([2, 0, 0, 0, a, b]), xid, *giaddr);
                socket.send_to(&request, "198.18.0.1:67").unwrap();
            };
            (0..MANY).for_each(|xid| asks(&busy, xid));
            (MANY..MANY + 3).for_each(|xid| asks(&idle, xid));
            go.send(()).unwrap();
            let answered = |(_, socket): &(Ipv4Addr, UdpSocket), count: usize| {
                let mut buffer = [0; 9_000];
                let mut next = || {
                    let (len, from) = socket.recv_from(&mut buffer).unwrap();
                    assert_eq!(from, "198.18.0.1:67".parse().unwrap());
                    let xid = u32::from_be_bytes(buffer[4..8].try_into().unwrap());
                    assert_eq!((len, &buffer[32..34]), (length(xid), &xid.to_be_bytes()[2..]), "{xid}");
                    xid
                };
                (0..count).map(|_| next()).collect::<BTreeSet<u32>>()
            };
            assert_eq!(answered(&busy, MANY as usize), (0..MANY).collect());
            assert_eq!(answered(&idle, 3), (MANY..MANY + 3).collect());
        })
        .unwrap();
    until("all are counted", || (service.count("offers") == u64::from(MANY) + 3).then_some(()));
    let longer_than_a_frame = |frame: &[u8]| (frame.len() > 1_514).then_some(());
    wire.recv("many replies in one", longer_than_a_frame);
}

#[test]
fn the_boot_server_port_is_answered_by_itself() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.host("client", "198.18.0.9/24").unwrap();
    let settings = vec![InterfaceSettings::new("eth0", Mode::Proxy)];
    let script = Script::new(|link, req, _| {
        assert_eq!((link.port, link.mode), (Port::BootServer4011, Mode::Proxy));
        reply(link, req, Ipv4Addr::UNSPECIFIED, Destination::Unicast(at([198, 18, 0, 9], 68)))
    });
    let _service = Service::start(&server, settings, script);
    let from = client
        .enter(|| {
            let socket = std::net::UdpSocket::bind("198.18.0.9:68").unwrap();
            socket.set_read_timeout(Some(BOUND)).unwrap();
            let request = discover(Mac([2, 0, 0, 0, 0, 9]), 10, Ipv4Addr::UNSPECIFIED);
            socket.send_to(&request, "198.18.0.1:4011").unwrap();
            socket.recv_from(&mut [0; 1500]).unwrap().1
        })
        .unwrap();
    assert_eq!(from, "198.18.0.1:4011".parse().unwrap());
}

#[test]
fn the_answer_leaves_by_the_link_that_the_question_came_in_on() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    // The same subnet on both, which no routing table could tell apart.
    server.plug("sw1", "eth1", None, Some("198.18.0.2/24")).unwrap();
    let other = net.bare_host("other").unwrap();
    other.plug("sw1", "eth0", None, None).unwrap();
    let one = net.client().unwrap();
    let both = vec![InterfaceSettings::new("eth0", Mode::Full), InterfaceSettings::new("eth1", Mode::Full)];
    let to = |_: &_| Destination::Broadcast { port: 68 };
    let _service = Service::start(&server, both, Script::offers(OFFERED, to));
    for (n, (host, address)) in [(&one, [198, 18, 0, 1]), (&other, [198, 18, 0, 2])].into_iter().enumerate() {
        let wire = Wire::open(host, ETH_IPV4);
        wire.discover(wire.mac, n as u32);
        assert_eq!(read_udp(&wire.reply(n as u32)).unwrap().from, at(address, 67));
    }
}

#[test]
fn what_is_no_request_is_counted_and_dropped() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.host("client", "198.18.0.9/24").unwrap();
    let service = Service::start(&server, eth0(), Script::offers(OFFERED, |r| hardware(r, OFFERED)));
    client
        .enter(|| {
            let socket = std::net::UdpSocket::bind("198.18.0.9:68").unwrap();
            let whole = discover(Mac([2, 0, 0, 0, 0, 9]), 11, Ipv4Addr::UNSPECIFIED);
            for bytes in [&[][..], &[0xff; 239], &whole[..100], &[1; 60_000]] {
                socket.send_to(bytes, "198.18.0.1:67").unwrap();
            }
        })
        .unwrap();
    let wire = Wire::open(&client, ETH_IPV4);
    until("four malformed datagrams", || (service.count("received") == 4).then_some(()));
    wire.discover(wire.mac, 12);
    wire.reply(12);
    let malformed: u64 = service.status().malformed.values().sum();
    assert_eq!(malformed, 4, "{:?}", service.status());
}

#[test]
fn a_flood_of_made_up_macs_does_not_keep_out_a_known_machine() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let wire = Wire::open(&client, ETH_IPV4);
    let bounds = LinkBounds { unknown_per_second: 1, unknown_burst: 10, ..LinkBounds::default() };
    let settings = vec![InterfaceSettings { bounds, ..InterfaceSettings::new("eth0", Mode::Full) }];
    let script = Script::offers(OFFERED, |r| hardware(r, OFFERED));
    let service = Service::start(&server, settings, Script { known: Some(wire.mac), ..script });
    for n in 0..300u16 {
        let [hi, lo] = n.to_be_bytes();
        wire.discover(Mac([2, 9, 9, 9, hi, lo]), 1_000 + u32::from(n));
    }
    until("the flood is read", || (service.count("received") == 300).then_some(()));
    assert!(service.count("dropped_rate") > 200, "{:?}", service.status());
    wire.discover(wire.mac, 13);
    wire.reply(13);
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let _taken = server.enter(|| std::net::UdpSocket::bind("0.0.0.0:67").unwrap()).unwrap();
    let script = Script::offers(OFFERED, |r| hardware(r, OFFERED));
    let error = Service::try_start(&server, eth0(), script).map(drop).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains("port 67 is taken on eth0") && text.contains("mode = \"off\""), "{text}");
}
