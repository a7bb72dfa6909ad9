//! Properties: whatever arrives, in whatever order.

use super::*;
use dhcproto::{Decodable, Decoder, v4};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a client on the link believes that it holds, and until when.
type Beliefs = BTreeMap<Ipv4Addr, (Mac, Vec<u8>, Millis)>;

#[derive(Clone, Debug)]
enum Step {
    Discover {
        who: u32,
        id: u8,
        wish: Option<u8>,
    },
    /// Asks for what it was offered last.
    Take {
        who: u32,
        id: u8,
    },
    InitReboot {
        who: u32,
        id: u8,
        addr: u8,
    },
    Renew {
        who: u32,
        id: u8,
        addr: u8,
    },
    Decline {
        who: u32,
        id: u8,
        addr: u8,
    },
    Release {
        who: u32,
        id: u8,
        addr: u8,
    },
    Occupy {
        addr: u8,
    },
    Pass {
        seconds: i64,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0_u32..6;
    let id = 0_u8..4;
    let addr = 8_u8..22;
    let triple = (who.clone(), id.clone(), addr.clone());
    let step = prop_oneof![
        4 => (who.clone(), id.clone(), proptest::option::of(addr.clone()))
            .prop_map(|(who, id, wish)| Step::Discover { who, id, wish }),
        6 => (who, id).prop_map(|(who, id)| Step::Take { who, id }),
        2 => triple.clone().prop_map(|(who, id, addr)| Step::InitReboot { who, id, addr }),
        2 => triple.clone().prop_map(|(who, id, addr)| Step::Renew { who, id, addr }),
        1 => triple.clone().prop_map(|(who, id, addr)| Step::Decline { who, id, addr }),
        1 => triple.prop_map(|(who, id, addr)| Step::Release { who, id, addr }),
        1 => addr.prop_map(|addr| Step::Occupy { addr }),
        2 => (0_i64..2_000).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..120)
}

/// Client ids of one machine: none, its MAC, and two operating systems'.
fn identify(packet: Packet, id: u8) -> Packet {
    match id {
        0 => packet.pxe(7),
        1 => {
            let own = [&[1][..], &packet.mac.0].concat();
            packet.with(61, &own)
        }
        n => packet.with(61, &[0xff, n, n, n]),
    }
}

/// Two ids are one client where the machine restarted between them: everything but two operating
/// systems.
fn other_client(mac: Mac, id: u8, held: &(Mac, Vec<u8>, Millis)) -> bool {
    held.0 != mac || (id >= 2 && held.1 != [id] && held.1[0] >= 2)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_held_by_two_clients(steps in steps(), known: bool, authoritative: bool) {
        let mut kit = Kit::new();
        kit.site.reservations = vec![Reservation {
            mac: Some(mac(5)), client_id: None, address: ip(12), hostname: None,
        }];
        kit.site.authoritative = authoritative;
        kit.site = kit.site.clone();
        kit.known = known;
        let mut beliefs = Beliefs::new();
        let mut offered: BTreeMap<(u32, u8), Ipv4Addr> = BTreeMap::new();
        for step in steps {
            let (packet, who, id) = match step {
                Step::Discover { who, id, wish } => {
                    // Its firmware asks: it restarted, and no system of it runs any more. The address is
                    // still the machine's.
                    if id < 2 {
                        let held = beliefs.values_mut().filter(|held| held.0 == mac(who));
                        held.for_each(|held| held.1 = vec![id]);
                    }
                    let mut packet = Packet::discover(mac(who));
                    if let Some(wish) = wish {
                        packet = packet.with(50, &ip(wish).octets());
                    }
                    (packet, who, id)
                }
                Step::Take { who, id } => match offered.get(&(who, id)) {
                    Some(addr) => (Packet::selecting(mac(who), SERVER, *addr), who, id),
                    None => continue,
                },
                Step::InitReboot { who, id, addr } => (Packet::init_reboot(mac(who), ip(addr)), who, id),
                Step::Renew { who, id, addr } => (Packet::renewing(mac(who), ip(addr)), who, id),
                Step::Decline { who, id, addr } => {
                    // As with a release: a machine that restarted may decline what its earlier id held.
                    if beliefs.get(&ip(addr)).is_some_and(|b| !other_client(mac(who), id, b)) {
                        beliefs.remove(&ip(addr));
                    }
                    (Packet::decline(mac(who), ip(addr)), who, id)
                }
                Step::Release { who, id, addr } => {
                    // A client releases what it believes to hold; a machine that restarted may
                    // release what its earlier id held.
                    if beliefs.get(&ip(addr)).is_some_and(|b| !other_client(mac(who), id, b)) {
                        beliefs.remove(&ip(addr));
                    }
                    (Packet::release(mac(who), ip(addr)), who, id)
                }
                Step::Occupy { addr } => {
                    kit.occupied = vec![ip(addr)];
                    continue;
                }
                Step::Pass { seconds } => {
                    kit.pass(seconds);
                    continue;
                }
                Step::Restart => {
                    kit.restart();
                    continue;
                }
            };
            let Action::Reply(reply) = kit.send(&identify(packet, id)) else { continue };
            let read = Read::new(reply);
            v4::Message::decode(&mut Decoder::new(&read.bytes)).expect("every reply can be read");
            let addr = read.yiaddr();
            if read.reply.kind == ReplyKind::Nak {
                continue;
            }
            prop_assert!((10..20).contains(&addr.octets()[3]), "{addr} is in no pool");
            prop_assert!(addr != ip(12) || who == 5, "{addr} is reserved for another");
            if let Some(held) = beliefs.get(&addr) {
                let collides = held.2 > kit.now && other_client(mac(who), id, held);
                prop_assert!(!collides, "{addr} given to {who}/{id} while {held:?} has it at {}", kit.now);
            }
            if read.reply.kind == ReplyKind::Offer {
                offered.insert((who, id), addr);
                continue;
            }
            // A client has one address: with this one it gives up what it had.
            beliefs.retain(|_, held| other_client(mac(who), id, held));
            let seconds = u32::from_be_bytes(read.opt(51).unwrap().try_into().unwrap());
            beliefs.insert(addr, (mac(who), vec![id], kit.now + i64::from(seconds) * 1_000));
            let stored = kit.disk.get(&addr).expect("an ACK comes with its lease");
            prop_assert_eq!((stored.mac, stored.state), (mac(who), LeaseState::Bound));
            prop_assert!(stored.expires >= kit.now + i64::from(seconds) * 1_000);
        }
        // The table agrees with itself: what is free is neither offered nor leased.
        let now = kit.now;
        kit.once(&Packet::discover(mac(77)), None);
        let (_, size, free) = kit.leases.usage().next().unwrap();
        let mut busy: Vec<Ipv4Addr> = kit.leases.offers().map(|l| l.addr).collect();
        busy.extend(kit.leases.iter().filter(|l| leases::runs(l, now)).map(|l| l.addr));
        busy.retain(|a| *a != ip(12));
        busy.sort_unstable();
        busy.dedup();
        prop_assert_eq!(size - free, busy.len());
    }

    #[test]
    fn a_known_machine_gets_an_address_in_any_flood(
        strangers in proptest::collection::vec((0_u32..1_000_000, any::<bool>(), 0_i64..20), 0..400),
        at in 0_usize..400,
    ) {
        let mut kit = Kit::new();
        kit.site.probe = false;
        for (n, (who, takes, wait)) in strangers.iter().enumerate() {
            if n == at {
                kit.known = true;
                kit.obtain(&Packet::discover(mac(2_000_000)).pxe(0));
            }
            kit.known = false;
            let packet = Packet::discover(mac(*who));
            if let (Action::Reply(offer), true) = (kit.send(&packet), *takes) {
                let _ = kit.send(&Packet::selecting(mac(*who), SERVER, offer.yiaddr));
            }
            kit.pass(*wait);
        }
        kit.known = true;
        kit.obtain(&Packet::discover(mac(2_000_000)).pxe(0));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1_500)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_options_get_a_readable_answer_or_none(
        options in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..255)), 0..12),
        kind in 0_u8..10,
        giaddr in prop_oneof![Just(Ipv4Addr::UNSPECIFIED), Just(ip(254)), any::<u32>().prop_map(Ipv4Addr::from_bits)],
        ciaddr in prop_oneof![Just(Ipv4Addr::UNSPECIFIED), Just(ip(11)), any::<u32>().prop_map(Ipv4Addr::from_bits)],
        proxy: bool,
        pxe: bool,
    ) {
        let mut packet = Packet { ciaddr, giaddr, ..Packet::new(kind, mac(1)) };
        if pxe {
            packet = packet.pxe(7);
        }
        packet.options.extend(options.into_iter().filter(|(code, _)| !matches!(code, 0 | 255)));
        let Ok(req) = parse(&packet.bytes()[..packet.bytes().len().min(4_096)]) else { return Ok(()) };
        let mut kit = Kit::new();
        kit.boot = NbpAnswer::Tftp { file: "snponly.efi".into() };
        if proxy {
            kit.link.mode = Mode::Proxy;
        }
        let first = respond(&kit.site, &mut kit.leases, &kit.link, &req, &kit.boot, true, None, kit.now).action;
        let action = match first {
            Action::Probe(addr) => {
                let probed = Some(Probed::Free(addr));
                respond(&kit.site, &mut kit.leases, &kit.link, &req, &kit.boot, true, probed, kit.now).action
            }
            other => other,
        };
        if let Action::Reply(reply) = action {
            let message = v4::Message::decode(&mut Decoder::new(&reply.bytes)).unwrap();
            prop_assert_eq!(message.xid(), 0xcafe_babe);
            prop_assert_eq!(message.opts().get(v4::OptionCode::MessageType).is_some(), true);
            prop_assert!(reply.bytes.len() >= 300);
        }
    }
}
