//! DHCP: addresses that others have, another server, packets that are none, links that come and go.

use super::{
    Row,
    junk::Junk,
    site::{Asker, BOUND, SERVER, Site, option, yiaddr},
    times,
};
use crate::dhcpd::harness::{Dnsmasq, discover, until};
use pristine::{client::Client, model::LeaseState};
use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

/// Six addresses.
const SMALL: &str = "[[subnet]]\nnetwork = \"198.18.0.0/16\"\npools = [\"198.18.7.1-198.18.7.6\"]\n\
                     [bounds]\nknown_reserve_percent = 0\n";

#[test]
fn an_address_that_somebody_has_is_not_offered_and_a_declined_one_rests() {
    let mut row = Row::new("a squatter on an address");
    let mut declined = Row::new("DECLINE");
    let site = Site::up(SMALL);
    let squatter = site.net.host("squatter", "198.18.7.1/16").unwrap();
    squatter.address("eth0", "198.18.7.2/16").unwrap();
    let squatted = [Ipv4Addr::new(198, 18, 7, 1), Ipv4Addr::new(198, 18, 7, 2)];
    let mut gone: Vec<Ipv4Addr> = Vec::new();
    for n in 0..4 {
        let mut asker = Asker::on(&site.net.client().unwrap());
        let got = until("an address", || asker.lease(Duration::from_secs(5)));
        row.holds(!squatted.contains(&got), || format!("{got} is squatted"));
        row.made(1);
        declined.holds(!gone.contains(&got), || format!("{got} was declined"));
        if n < 3 {
            let (addr, server) = (option(50, &got.octets()), option(54, &SERVER.octets()));
            asker.ask(&[&[53, 1, 4], &addr, &server], Duration::ZERO);
            let is_declined = |l: &pristine::model::Lease| l.addr == got && l.state == LeaseState::Declined;
            until("the declined address rests", || {
                site.api(Client::leases).unwrap().iter().any(is_declined).then_some(())
            });
            gone.push(got);
            declined.made(1);
        }
    }
    row.end();
    declined.end();
}

#[test]
fn a_second_server_is_an_alarm_within_ten_seconds_and_keeps_its_clients() {
    let mut row = Row::new("a second DHCP server");
    let site = Site::up("");
    let mut asker = Asker::on(&site.net.client().unwrap());
    let other = site.net.host("other", "198.18.0.9/16").unwrap();
    let _dnsmasq = Dnsmasq::start(&other);
    let began = Instant::now();
    until("the alarm", || {
        // Its clients choose it: not ours to answer.
        let (addr, server) = (option(50, &[198, 18, 0, 20]), option(54, &[198, 18, 0, 9]));
        let answer = asker.ask(&[&[53, 1, 3], &addr, &server], Duration::from_millis(300));
        let ours = answer.is_some_and(|(reply, _)| reply.windows(6).any(|w| w == [54, 4, 198, 18, 0, 1]));
        row.holds(!ours, || "we answered a REQUEST that is the other server's".into());
        row.made(1);
        site.alarms().iter().any(|a| a.contains("198.18.0.9")).then_some(())
    });
    let took = began.elapsed();
    row.holds(took < times(Duration::from_secs(20), Duration::from_secs(10)), || format!("after {took:?}"));
    row.end();
}

fn well_formed(reply: &[u8]) -> bool {
    use dhcproto::{Decodable, Decoder, v4::Message};
    Message::decode(&mut Decoder::new(reply)).is_ok_and(|m| m.opts().msg_type().is_some())
}

#[test]
fn packets_cut_at_every_byte_and_changed_at_random_hurt_nobody() {
    let mut row = Row::new("malformed, truncated, mutated DHCP");
    // As a known machine's, so that they are read to the end.
    let site = Site::up("");
    let pid = site.service.pid();
    let mut good = Asker::on(&site.net.client().unwrap());
    let bad = site.net.host("bad", "198.18.0.66/16").unwrap();
    let mac = bad.mac("eth0").unwrap();
    site.register(mac, "bad");
    let socket = bad.enter(|| UdpSocket::bind("0.0.0.0:68").unwrap()).unwrap();
    socket.connect((SERVER, 67)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut whole = discover(mac, 5, [0; 4].into());
    whole.truncate(243);
    for (code, value) in [
        (12, &b"host"[..]),
        (55, &[1, 3, 6, 67]),
        (60, b"PXEClient:Arch:00007:UNDI:003016"),
        (61, &[1, 2, 3, 4, 5, 6, 7]),
        (77, b"iPXE"),
        (82, &[1, 2, 65, 66, 2, 1, 67]),
        (93, &[0, 7]),
        (97, &[0; 17]),
        (175, &[0x13, 1, 1]),
    ] {
        whole.extend(option(code, value));
    }
    whole.push(255);
    let mut all: Vec<Vec<u8>> = (0..whole.len()).map(|at| whole[..at].to_vec()).collect();
    let mut junk = Junk::new(11);
    all.extend((0..times(1_000, 100_000)).map(|_| junk.changed(&whole)));
    let mut buffer = [0; 4_096];
    let mut read = |row: &mut Row| {
        while let Ok(len) = socket.recv(&mut buffer) {
            row.holds(well_formed(&buffer[..len]), || format!("a reply: {:?}", &buffer[..len]));
        }
    };
    for (n, bytes) in all.iter().enumerate() {
        let _ = socket.send(bytes);
        read(&mut row);
        if n % 200 == 0 {
            let offer = good.ask(&[&[53, 1, 1]], BOUND);
            row.holds(offer.is_some_and(|(r, _)| well_formed(&r) && !yiaddr(&r).is_unspecified()), || {
                format!("the good client after {bytes:?}")
            });
        }
    }
    row.made(all.len());
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    row.end();
}

#[test]
fn a_link_that_goes_or_changes_is_served_again_at_once() {
    let mut row = Row::new("interface down, readdressed, removed and recreated");
    let site = Site::up("");
    let pid = site.service.pid();
    let mut asker = Asker::on(&site.net.client().unwrap());
    let bound = times(Duration::from_secs(15), Duration::from_secs(2));
    for _ in 0..times(1, 20) {
        for fault in ["down", "readdressed", "removed"] {
            until("an answer before", || asker.discover(Duration::from_millis(500)));
            match fault {
                "down" => {
                    site.server.link("eth0", false).unwrap();
                    site.server.link("eth0", true).unwrap();
                }
                "readdressed" => {
                    site.server.run(&["ip", "addr", "flush", "dev", "eth0"]).unwrap();
                    site.server.address("eth0", "198.18.0.2/16").unwrap();
                }
                _ => {
                    site.server.run(&["ip", "link", "del", "eth0"]).unwrap();
                    site.server.plug("sw0", "eth0", None, Some("198.18.0.1/16")).unwrap();
                }
            }
            let began = Instant::now();
            until("an answer after", || asker.discover(Duration::from_millis(100)));
            let took = began.elapsed();
            row.holds(took < bound, || format!("{fault}: served after {took:?}"));
            row.made(1);
        }
    }
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    row.end();
}
