//! A flood of DISCOVERs from made-up MACs, as fast as the wire carries them.

use super::{
    Row,
    site::{Asker, BOUND, SERVER, Site, made_up, p99},
    times,
};
use crate::dhcpd::harness::{discover, until};
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Addresses of the small pool; a tenth of them are kept for known machines.
const POOL: &str = "[[subnet]]\nnetwork = \"198.18.0.0/16\"\npools = [\"198.18.7.1-198.18.7.200\"]\n";

#[test]
fn a_flood_of_strangers_costs_little_memory_and_keeps_no_known_machine_waiting() {
    let mut row = Row::new("1,000,000 DISCOVERs from made-up MACs");
    let flood: u32 = times(20_000, 1_000_000);
    let site = Site::up("");
    let attacker = site.net.host("attacker", "198.18.0.66/16").unwrap();
    let mut known = Asker::on(&site.net.client().unwrap());
    site.register(known.mac(), "known");
    known.lease(BOUND).expect("an address before the flood");
    let before = site.memory("VmRSS");

    let over = AtomicBool::new(false);
    let (answers, (sent, rate)) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let socket = attacker.enter(|| UdpSocket::bind("198.18.0.66:68").unwrap()).unwrap();
            socket.connect((SERVER, 67)).unwrap();
            let began = Instant::now();
            // The attacker's own queue may be full.
            let sent = (0..flood).filter(|n| socket.send(&of_stranger(*n)).is_ok()).count();
            over.store(true, Relaxed);
            (sent, sent as f64 / began.elapsed().as_secs_f64())
        });
        let mut answers = Vec::new();
        while !over.load(Relaxed) || answers.len() < 20 {
            answers.push(known.discover(Duration::from_secs(5)).map(|(_, took)| took));
            std::thread::sleep(Duration::from_millis(10));
        }
        (answers, flooding.join().unwrap())
    });
    let late = answers.iter().filter(|t| t.is_none_or(|t| t > Duration::from_secs(1))).count();
    let grown = site.memory("VmHWM").saturating_sub(before) / 1024;
    eprintln!(
        "{rate:.0} a second; {late} of {} late; p99 {:?}; {grown} MiB",
        answers.len(),
        p99(answers.clone())
    );
    row.made(sent);
    row.holds(sent * 100 >= flood as usize * 99, || format!("only {sent} went out"));
    row.holds(
        p99(answers).is_some_and(|t| t < times(Duration::from_secs(5), Duration::from_secs(1))),
        || format!("{late} late"),
    );
    row.holds(grown <= 64, || format!("{grown} MiB more"));
    offers_end(&mut row);
    row.end();
}

fn of_stranger(n: u32) -> Vec<u8> {
    discover(made_up(n), n, [0; 4].into())
}

/// Strangers who ask and never take what they are offered have a pool to themselves for a time, and no longer.
fn offers_end(row: &mut Row) {
    let hold = times(5, 30);
    let site = Site::up(&format!("{POOL}[dhcp]\noffer_hold = \"{hold}s\"\n"));
    let attacker = site.net.host("attacker", "198.18.0.66/16").unwrap();
    let strangers = site.net.client().unwrap();
    let mut known = Asker::on(&site.net.client().unwrap());
    site.register(known.mac(), "known");
    // Each of them is another, and none of the flood's.
    let mut newcomers = (u32::MAX / 2..).map(|n| Asker::named(&strangers, made_up(n)));
    let mut newcomer = |bound| newcomers.next().expect("another").discover(bound);

    let over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let socket = attacker.enter(|| UdpSocket::bind("198.18.0.66:68").unwrap()).unwrap();
            socket.connect((SERVER, 67)).unwrap();
            let mut sent = 0;
            for n in 0.. {
                if over.load(Relaxed) {
                    break;
                }
                sent += usize::from(socket.send(&of_stranger(n)).is_ok());
                // Half as many in a second as are looked at: whoever gets nothing finds no address.
                std::thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        // Two in a row, and in between the service is quick to answer one whom it knows.
        until("the pool is full", || {
            let silent = |answer: Option<_>| answer.is_none().then_some(());
            silent(newcomer(Duration::from_secs(2)))?;
            known.discover(Duration::from_millis(700))?;
            silent(newcomer(Duration::from_secs(2)))
        });
        over.store(true, Relaxed);
        flooding.join().unwrap()
    });
    let ended = Instant::now();
    until("an offer after the flood", || newcomer(Duration::from_secs(3)));
    let took = ended.elapsed();
    eprintln!("offers of {hold} s: the pool of 200 was full after {sent} DISCOVERs, and free after {took:?}");
    row.made(sent);
    row.holds(took < Duration::from_secs(60), || format!("no address for a stranger for {took:?}"));
}
