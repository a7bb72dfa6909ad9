//! DHCP: addresses that others have, another server, packets that are none, links that come and go.

use super::{
    Row,
    http::fetch,
    junk::Junk,
    site::{Asker, BOUND, SERVER, Site, made_up, nbps, option, yiaddr},
    times,
};
use crate::dhcpd::harness::{Dnsmasq, Wire, discover, until};
use pristine::{
    client::Client,
    dhcpd::frame,
    model::{LeaseState, Mac, Millis},
    sys::ETH_IPV4,
};
use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Whoever sends what it should not.
const BAD: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 66);

#[test]
fn an_address_that_somebody_has_is_not_offered_and_a_declined_one_rests() {
    let mut row = Row::new("a squatter on an address");
    let mut declined = Row::new("DECLINE");
    let clients = times(4, 40);
    // Every second address is squatted, and all the others are used up: each is looked at.
    let mut site = Site::up(&format!(
        "[[subnet]]\nnetwork = \"198.18.0.0/16\"\npools = [\"198.18.7.1-198.18.7.{}\"]\n\
         [bounds]\nknown_reserve_percent = 0\n",
        2 * clients
    ));
    let squatted: Vec<_> = (1..=clients as u8).map(|n| Ipv4Addr::new(198, 18, 7, 2 * n - 1)).collect();
    let squatter = site.net.host("squatter", &format!("{}/16", squatted[0])).unwrap();
    squatted[1..].iter().for_each(|addr| squatter.address("eth0", &format!("{addr}/16")).unwrap());
    let host = site.net.client().unwrap();
    let mut gone: Vec<Ipv4Addr> = Vec::new();
    let bound = Duration::from_secs(5);
    let rests = |site: &Site, addr: Ipv4Addr| {
        let leases = site.api(Client::leases).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as Millis;
        leases.iter().any(|l| l.addr == addr && l.state == LeaseState::Declined && l.expires > now)
    };
    for n in 1..=clients {
        let mut asker = Asker::named(&host, made_up(n));
        let got = until("an address", || {
            let (offered, _) = asker.discover(bound)?;
            row.holds(!squatted.contains(&offered), || format!("{offered} is squatted"));
            declined.holds(!gone.contains(&offered), || format!("{offered} was declined"));
            asker.request(offered, bound)
        });
        if n < clients {
            let (addr, server) = (option(50, &got.octets()), option(54, &SERVER.octets()));
            asker.ask(&[&[53, 1, 4], &addr, &server], Duration::ZERO);
            until("the declined address rests", || rests(&site, got).then_some(()));
            gone.push(got);
            declined.made(1);
        }
    }
    for addr in &squatted {
        row.holds(rests(&site, *addr), || format!("{addr} is squatted, and nobody found out"));
        row.made(1);
    }
    site.service.kill();
    site.service.run(&site.server).unwrap();
    for addr in &squatted {
        row.holds(rests(&site, *addr), || format!("{addr} is squatted, which a kill made forgotten"));
    }
    for addr in &gone {
        declined.holds(rests(&site, *addr), || format!("{addr} rests no more after a kill"));
    }
    // Nothing is left to be given.
    let given = Asker::named(&host, made_up(0)).discover(Duration::from_secs(2));
    declined.holds(given.is_none(), || format!("{given:?} was offered"));
    row.end();
    declined.end();
}

#[test]
fn a_second_server_is_an_alarm_within_ten_seconds_and_keeps_its_clients() {
    let mut row = Row::new("a second DHCP server");
    let site = Site::up("");
    let mut asker = Asker::on(&site.net.client().unwrap());
    let other = site.net.host("other", "198.18.0.9/16").unwrap();
    let alarmed = || site.alarms().iter().any(|a| a.contains("198.18.0.9"));
    row.holds(!alarmed(), || "an alarm before there is another server".into());
    let _dnsmasq = Dnsmasq::start(&other);
    // Machines ask as they do: none has chosen yet.
    let began = Instant::now();
    until("the alarm", || {
        asker.discover(Duration::from_millis(300));
        alarmed().then_some(())
    });
    let took = began.elapsed();
    row.holds(took < Duration::from_secs(10), || format!("the alarm came after {took:?}"));
    let counted = |what: &str| {
        let status = site.api(Client::status).unwrap();
        status.counters["dhcp"][0]["counts"][what].as_u64().unwrap()
    };
    let (before, answered) = (counted("other_server"), [counted("acks"), counted("naks")]);
    let (mut heard, tries) = (0, times(5, 100));
    for _ in 0..tries {
        // A client that chose the other: not ours to answer.
        let (addr, server) = (option(50, &[198, 18, 0, 20]), option(54, &[198, 18, 0, 9]));
        let replies = asker.ask_all(&[&[53, 1, 3], &addr, &server], Duration::from_millis(300));
        heard += replies.len();
        for (from, reply) in replies {
            let ours = from == SERVER || reply.windows(6).any(|w| w == [54, 4, 198, 18, 0, 1]);
            row.holds(!ours, || format!("we answered a REQUEST that is the other server's: {reply:?}"));
        }
        row.made(1);
    }
    row.holds(heard > 0, || "not even the other server was heard".into());
    // Nor does it answer one late.
    until("all of them are read", || (counted("other_server") >= before + tries).then_some(()));
    let now = [counted("acks"), counted("naks")];
    row.holds(now == answered, || format!("ACKs and NAKs: {answered:?} before, {now:?} after"));
    row.end();
}

/// Whether this can be a reply of ours: to a client, with a type, for an address that is there to be given.
fn well_formed(reply: &[u8]) -> bool {
    use dhcproto::{
        Decodable, Decoder,
        v4::{Message, Opcode},
    };
    Message::decode(&mut Decoder::new(reply)).is_ok_and(|m| {
        let to_give = m.yiaddr().is_unspecified() || m.yiaddr().octets().starts_with(&[198, 18]);
        m.opcode() == Opcode::BootReply && m.opts().msg_type().is_some() && to_give && m.yiaddr() != SERVER
    })
}

/// A request with options of all kinds.
fn request(mac: Mac, kind: u8, giaddr: Ipv4Addr) -> Vec<u8> {
    let mut whole = discover(mac, 5, giaddr);
    whole.truncate(242);
    whole.push(kind);
    // RELEASE and INFORM say whose address they are about where a client has one.
    if matches!(kind, 7 | 8) {
        whole[12..16].copy_from_slice(&BAD.octets());
    }
    for (code, value) in [
        (12, &b"host"[..]),
        (50, &[198, 18, 0, 77]),
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
    if matches!(kind, 4 | 7) {
        whole.extend(option(54, &SERVER.octets()));
    }
    whole.push(255);
    whole
}

#[test]
fn packets_cut_at_every_byte_and_changed_at_random_hurt_nobody() {
    let mut row = Row::new("malformed, truncated, mutated DHCP");
    let site = Site::up("");
    let pid = site.service.pid();
    let mut good = Asker::on(&site.net.client().unwrap());
    let bad = site.net.host("bad", &format!("{BAD}/16")).unwrap();
    let mac = bad.mac("eth0").unwrap();
    // As a known machine's, so that they are read to the end.
    site.register(mac, "bad");
    let socket = bad.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).unwrap()).unwrap();
    // Replies go to addresses that nobody has: only the cable shows them.
    let wire = Wire::open(&bad, ETH_IPV4);
    let ours = |frame: &[u8]| {
        let udp = frame::read_udp(frame)?;
        (*udp.from.ip() == SERVER && matches!(udp.from.port(), 67 | 4011)).then(|| udp.data.to_vec())
    };
    let mut junk = Junk::new(11);
    let kinds = [("DISCOVER", 1), ("REQUEST", 3), ("DECLINE", 4), ("RELEASE", 7), ("INFORM", 8)];
    for (name, kind) in kinds {
        for (giaddr, port) in [(Ipv4Addr::UNSPECIFIED, 67), (BAD, 67), (Ipv4Addr::UNSPECIFIED, 4011)] {
            let mut whole = request(mac, kind, giaddr);
            let cuts = (0..=whole.len()).rev().step_by(times(3, 1)).map(|at| whole[..at].to_vec());
            let mut all: Vec<Vec<u8>> = cuts.collect();
            all.extend((0..times(100, 8_000u32)).map(|n| {
                // Each a question of its own: one that is in work is not begun again.
                whole[4..8].copy_from_slice(&n.to_be_bytes());
                junk.changed(&whole)
            }));
            let mut replies = 0;
            let mut read = |row: &mut Row, bound: Duration| {
                while let Some(reply) = wire.recv_within(bound, ours) {
                    replies += 1;
                    row.holds(well_formed(&reply), || format!("a reply to a changed {name}: {reply:?}"));
                }
            };
            for (n, bytes) in all.iter().enumerate() {
                let _ = socket.send_to(bytes, (SERVER, port));
                read(&mut row, Duration::ZERO);
                if n % 100 == 0 {
                    let offer = good.ask(&[&[53, 1, 1]], BOUND);
                    row.holds(
                        offer.is_some_and(|(r, _)| well_formed(&r) && !yiaddr(&r).is_unspecified()),
                        || format!("the good client after {bytes:?}"),
                    );
                }
            }
            read(&mut row, Duration::from_millis(300));
            // Nobody answers a DECLINE or a RELEASE.
            let answered = matches!(kind, 1 | 3 | 8) && (port == 67 || kind != 1);
            row.holds(!answered || replies > 0, || format!("no reply to any {name} at {port} by {giaddr}"));
            eprintln!("{name} at {port} by {giaddr}: {replies} replies to {}", all.len());
            row.made(all.len());
        }
    }
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    row.end();
}

/// What becomes of a link, and whether for long.
const FAULTS: [(&str, bool); 6] = [
    ("down", false),
    ("readdressed", false),
    ("removed", false),
    ("down", true),
    ("readdressed", true),
    ("removed", true),
];

#[test]
fn a_link_that_goes_or_changes_is_served_again_at_once() {
    let mut row = Row::new("interface down, readdressed, removed and recreated");
    let site = Site::up("");
    let pid = site.service.pid();
    let mut asker = Asker::on(&site.net.client().unwrap());
    let looker = site.net.host("looker", "198.18.0.9/16").unwrap();
    let file = std::fs::read(nbps().join("snponly.efi")).unwrap();
    let bound = times(Duration::from_secs(15), Duration::from_secs(2));
    for _ in 0..times(1, 20) {
        for (fault, long) in FAULTS {
            until("an answer before", || asker.discover(Duration::from_millis(500)));
            // At once, or when the service knows that it is gone.
            let gone = || {
                let serves = || !site.api(Client::status).unwrap().counters["dhcp"][0]["serving"].is_null();
                until("the service knows", || (!long || !serves()).then_some(()));
            };
            match fault {
                "down" => {
                    site.server.link("eth0", false).unwrap();
                    gone();
                    site.server.link("eth0", true).unwrap();
                }
                "readdressed" => {
                    site.server.run(&["ip", "addr", "flush", "dev", "eth0"]).unwrap();
                    gone();
                    site.server.address("eth0", "198.18.0.2/16").unwrap();
                }
                _ => {
                    site.server.run(&["ip", "link", "del", "eth0"]).unwrap();
                    gone();
                    site.server.plug("sw0", "eth0", None, Some("198.18.0.1/16")).unwrap();
                }
            }
            let began = Instant::now();
            // A machine that powers on knows nobody's MAC.
            looker.run(&["ip", "neigh", "flush", "dev", "eth0"]).unwrap();
            let addr = if fault == "readdressed" { Ipv4Addr::new(198, 18, 0, 2) } else { SERVER };
            // One that is on its way yet names the address of before.
            let named = option(54, &addr.octets());
            until("an OFFER after", || {
                let (offer, _) = asker.ask(&[&[53, 1, 1]], Duration::from_millis(100))?;
                offer.windows(6).any(|w| w == named).then_some(())
            });
            let by_dhcp = began.elapsed();
            until("HTTP after", || fetch(&looker, SocketAddrV4::new(addr, 8080), "/healthz"));
            let by_http = began.elapsed();
            let got = until("TFTP after", || super::tftp::read_from(&looker, addr, 1));
            let took = began.elapsed();
            eprintln!("{fault}, long {long}: DHCP {by_dhcp:?}, HTTP {by_http:?}, TFTP {took:?}");
            row.holds(got.0 == file, || format!("{fault}: a TFTP read"));
            row.holds(took < bound, || format!("{fault}: served after {took:?}"));
            row.made(1);
        }
    }
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    row.end();
}
