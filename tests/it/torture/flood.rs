//! A flood of DISCOVERs from made-up MACs, as fast as the wire carries them.

use super::{
    Row,
    site::{Asker, BOUND, SERVER, Site, made_up, p99},
    times,
};
use crate::dhcpd::harness::discover;
use pristine::model::{LeaseState, Mac};
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

#[test]
fn a_flood_of_strangers_costs_little_memory_and_keeps_no_known_machine_waiting() {
    let mut row = Row::new("1,000,000 DISCOVERs from made-up MACs");
    let flood: u32 = times(20_000, 1_000_000);
    let site = Site::up("");
    let attacker = site.net.host("attacker", "198.18.0.66/16").unwrap();
    let mut known = Asker::on(&site.net.client().unwrap());
    site.register(known.mac(), "known");
    known.lease(BOUND).expect("an address before the flood");
    let before = site.resident();

    let over = AtomicBool::new(false);
    let (answers, rate) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let socket = attacker.enter(|| UdpSocket::bind("198.18.0.66:68").unwrap()).unwrap();
            socket.connect((SERVER, 67)).unwrap();
            let mut packet = discover(Mac([0; 6]), 0, [0; 4].into());
            let began = Instant::now();
            for n in 0..flood {
                packet[4..8].copy_from_slice(&n.to_be_bytes());
                packet[28..34].copy_from_slice(&made_up(n).0);
                // The attacker's own queue may be full.
                let _ = socket.send(&packet);
            }
            over.store(true, Relaxed);
            f64::from(flood) / began.elapsed().as_secs_f64()
        });
        let mut answers = Vec::new();
        while !over.load(Relaxed) || answers.len() < 20 {
            answers.push(known.discover(Duration::from_secs(5)).map(|(_, took)| took));
            std::thread::sleep(Duration::from_millis(10));
        }
        (answers, flooding.join().unwrap())
    });
    let late = answers.iter().filter(|t| t.is_none_or(|t| t > Duration::from_secs(1))).count();
    let grown = site.resident().saturating_sub(before) / 1024;
    eprintln!(
        "{rate:.0} a second; {late} of {} late; p99 {:?}; {grown} MiB",
        answers.len(),
        p99(answers.clone())
    );
    row.made(flood as usize);
    row.holds(
        p99(answers).is_some_and(|t| t < times(Duration::from_secs(5), Duration::from_secs(1))),
        || format!("{late} late"),
    );
    row.holds(grown <= 64, || format!("{grown} MiB more"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
    let held = |within: i64| {
        let leases = site.api(|client| client.leases()).unwrap();
        leases.iter().filter(|l| l.state == LeaseState::Offered && l.expires > now + within).count()
    };
    let forever = held(60_000);
    row.holds(forever == 0, || format!("{forever} offers are held for longer than 60 s"));
    row.end();
}
