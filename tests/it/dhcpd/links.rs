//! Interfaces that come, go and change while the server runs.

use super::harness::*;
use pristine::{
    dhcp::Mode,
    dhcpd::{InterfaceSettings, frame::read_udp},
    lab::{Host, Net},
    sys::ETH_IPV4,
};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

const OFFERED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 77);

fn start(server: &Host) -> Service {
    let eth0 = vec![InterfaceSettings::new("eth0", Mode::Full)];
    Service::start(server, eth0, Script::offers(OFFERED, |r| hardware(r, OFFERED)))
}

/// Asks again and again until a server answers; its address and how long it took.
fn answered(client: &Host, xid: u32) -> (Ipv4Addr, Duration) {
    let wire = Wire::open(client, ETH_IPV4);
    let start = Instant::now();
    let frame = until("an answer", || {
        wire.discover(wire.mac, xid);
        wire.recv_within(Duration::from_millis(100), |frame| is_reply(frame, xid))
    });
    (*read_udp(&frame).unwrap().from.ip(), start.elapsed())
}

#[test]
fn an_interface_that_goes_down_and_up_or_gets_another_address_is_served_again() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let service = start(&server);
    assert_eq!(answered(&client, 1).0, Ipv4Addr::new(198, 18, 0, 1));

    server.link("eth0", false).unwrap();
    until("the link is seen down", || service.status().waiting_for.filter(|w| w.starts_with("is down")));
    server.link("eth0", true).unwrap();
    let (from, took) = answered(&client, 2);
    assert_eq!(from, Ipv4Addr::new(198, 18, 0, 1));
    println!("served {took:?} after up");

    server.run(&["ip", "addr", "flush", "dev", "eth0"]).unwrap();
    until("the address is seen gone", || service.status().waiting_for.filter(|w| w.contains("no IPv4")));
    server.address("eth0", "198.18.0.2/24").unwrap();
    let (from, took) = answered(&client, 3);
    assert_eq!(from, Ipv4Addr::new(198, 18, 0, 2));
    println!("served {took:?} after another address");
}

#[test]
fn an_interface_that_is_removed_and_made_again_is_served_again() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let service = start(&server);
    answered(&client, 1);
    for round in 2..4 {
        server.run(&["ip", "link", "del", "eth0"]).unwrap();
        if round == 2 {
            // In the other round it is back before anybody looked.
            until("the removal is seen", || service.status().waiting_for.filter(|w| w.contains("not exist")));
        }
        server.plug("sw0", "eth0", None, Some("198.18.0.1/24")).unwrap();
        let (_, took) = answered(&client, round);
        println!("served {took:?} after the interface came back");
    }
}

#[test]
fn a_missing_interface_is_waited_for() {
    let net = Net::new().unwrap();
    let server = net.bare_host("server").unwrap();
    let client = net.client().unwrap();
    let service = start(&server);
    let why = service.status().waiting_for.unwrap();
    assert!(why.contains("does not exist"), "{why}");
    server.plug("sw0", "eth0", None, Some("198.18.0.1/24")).unwrap();
    answered(&client, 1);
    assert_eq!(service.status().serving, Some(Ipv4Addr::new(198, 18, 0, 1)));
}

#[test]
fn a_port_that_becomes_free_is_taken_without_a_restart() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let service = start(&server);
    server.link("eth0", false).unwrap();
    until("the link is seen down", || service.status().waiting_for);
    let taken = server.enter(|| std::net::UdpSocket::bind("0.0.0.0:67").unwrap()).unwrap();
    server.link("eth0", true).unwrap();
    until("the clash is seen", || service.status().waiting_for.filter(|w| w.contains("port 67 is taken")));
    drop(taken);
    answered(&client, 1);
}
