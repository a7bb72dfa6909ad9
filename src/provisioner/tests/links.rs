//! Links that come, and change their address, while the service runs; and questions of other servers.

use super::*;
use crate::dhcp::Reason;

/// A service without any configured subnet.
fn flat() -> World {
    let w = World::new(Options::default());
    let World { state, images, clock, mut options, prov } = w;
    drop(prov);
    options.site.subnets.clear();
    let prov = open(&state, &images, &clock, &options);
    World { state, images, clock, options, prov }
}

fn link_at(ip: [u8; 4]) -> Link {
    Link { server: ServerAddr { ip: ip.into(), http_port: 8080 }, ..link() }
}

async fn ask(w: &World, link: &Link, packet: &[u8]) -> Action {
    saved(&w.prov, w.prov.dhcp(link, &dhcp::parse(packet).unwrap(), None)).await
}

fn reply(action: Action) -> dhcp::Reply {
    match action {
        Action::Reply(reply) => reply,
        other => panic!("no reply but {other:?}"),
    }
}

#[tokio::test]
async fn a_link_that_gets_its_address_later_is_served_from_then_on() {
    let w = flat();
    let first = ask(&w, &link(), &packet(1, 1, PXE)).await;
    assert!(matches!(first, Action::Silent(Reason::NoSubnet)), "{first:?}");
    w.prov.link_opened(&link());
    let offer = reply(ask(&w, &link(), &packet(1, 1, PXE)).await);
    assert_eq!(offer.yiaddr.octets()[..3], [198, 18, 0]);
    let proxy = Link { mode: Mode::Proxy, ..link_at([198, 18, 7, 1]) };
    w.prov.link_opened(&proxy);
    let beside = ask(&w, &Link { mode: Mode::Full, ..proxy }, &packet(1, 2, PXE)).await;
    assert!(matches!(beside, Action::Silent(Reason::NoSubnet)), "a link in proxy mode gives nothing out");
}

#[tokio::test]
async fn a_link_in_the_midst_of_anothers_network_gives_out_none_of_its_addresses() {
    let w = flat();
    w.prov.link_opened(&link());
    let inside = Link { name: "eth2".into(), prefix_len: 25, ..link_at([198, 18, 0, 129]) };
    w.prov.link_opened(&inside);
    let action = ask(&w, &inside, &packet(1, 1, PXE)).await;
    assert!(matches!(action, Action::Silent(Reason::NoSubnet)), "{action:?}");
    assert!(w.lease(2, PXE).await.is_some(), "the first link goes on");
}

#[tokio::test]
async fn a_link_with_another_address_serves_its_new_network_and_tells_those_of_the_old_one() {
    let w = flat();
    w.prov.link_opened(&link());
    let old = w.lease(1, PXE).await.unwrap();
    let moved = link_at([198, 18, 9, 1]);
    w.prov.link_opened(&moved);
    // REBINDING: it broadcasts with its old address in ciaddr.
    let mut rebind = packet(3, 1, &[]);
    rebind[12..16].copy_from_slice(&old.octets());
    assert_eq!(reply(ask(&w, &moved, &rebind).await).kind, ReplyKind::Nak);
    let offer = reply(ask(&w, &moved, &packet(1, 1, PXE)).await);
    assert_eq!(offer.yiaddr.octets()[..3], [198, 18, 9]);
    let kept: Vec<Ipv4Addr> = w.prov.leases().iter().map(|l| l.addr).collect();
    assert_eq!(kept, [old], "a promise stays on record until it runs out");

    // Back again, as after a mistake: the promise still holds, for it and against others.
    w.prov.link_opened(&link());
    assert_eq!(reply(ask(&w, &link(), &rebind).await).kind, ReplyKind::Ack);
    assert_ne!(w.lease(2, PXE).await, Some(old));
}

#[tokio::test]
async fn who_looks_for_dhcp_servers_is_answered_and_leaves_no_machine_and_no_boot() {
    let w = World::new(Options::default());
    let class = [&[14][..], dhcp::PROBE_CLASS].concat();
    let question = [PXE, &[(77, &class[..])]].concat();
    let offer = reply(w.dhcp(&packet(1, 7, &question)).await);
    assert_eq!(offer.kind, ReplyKind::Offer);
    assert_eq!((w.prov.stats().strangers, w.prov.attempts(None, 9).len()), (0, 0));
    reply(w.dhcp(&packet(1, 7, PXE)).await);
    assert_eq!((w.prov.stats().strangers, w.prov.attempts(None, 9).len()), (1, 1), "others do");
}
