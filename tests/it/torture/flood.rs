//! A flood of DISCOVERs from made-up MACs, as fast as the wire carries them.

use super::{
    Row,
    site::{Asker, BOUND, SERVER, Site, made_up, p99},
    times,
};
use crate::dhcpd::harness::{discover, until};
use pristine::client::Client;
use std::{
    collections::BTreeSet,
    net::UdpSocket,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Addresses of the small pool that strangers may have: a tenth of it is kept for known machines.
const FOR_STRANGERS: usize = 180;
const POOL: &str = "[[subnet]]\nnetwork = \"198.18.0.0/16\"\npools = [\"198.18.7.1-198.18.7.200\"]\n";

#[test]
fn a_flood_of_strangers_costs_little_memory_and_keeps_no_known_machine_waiting() {
    let mut row = Row::new("1,000,000 DISCOVERs from made-up MACs");
    let flood: u64 = times(20_000, 1_000_000);
    let site = Site::up("");
    let attacker = site.net.host("attacker", "198.18.0.66/16").unwrap();
    let mut known = Asker::on(&site.net.client().unwrap());
    site.register(known.mac(), "known");
    known.lease(BOUND).expect("an address before the flood");
    let before = site.memory("VmRSS");

    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let ((read, dropped), began) = (counted(&site), Instant::now());
    let strangers = || counted(&site).0.saturating_sub(read + asked.load(Relaxed));
    let (answers, sent) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let socket = attacker.enter(|| UdpSocket::bind("198.18.0.66:68").unwrap()).unwrap();
            socket.connect((SERVER, 67)).unwrap();
            let (mut sent, mut came, end) = (0, 0, began + times(BOUND, Duration::from_secs(900)));
            while came < flood && Instant::now() < end {
                let next = sent + flood - came;
                (sent..next).for_each(|n| drop(socket.send(&of_stranger(n as u32))));
                sent = next;
                // As many as were lost on the way go out once more, and no more: its queue has its bound.
                came = until("the service has read what there is", || waits_for_none(&site).then(strangers));
            }
            over.store(true, Relaxed);
            sent
        });
        let mut answers = Vec::new();
        while !over.load(Relaxed) || answers.len() < 20 {
            asked.fetch_add(1, Relaxed);
            answers.push(known.discover(Duration::from_secs(5)).map(|(_, took)| took));
            std::thread::sleep(Duration::from_millis(10));
        }
        (answers, flooding.join().unwrap())
    });
    let (now_read, now_dropped) = counted(&site);
    let (came, took) = (now_read.saturating_sub(read + asked.load(Relaxed)), began.elapsed());
    // It looks at so many at once, and then at so many in a second.
    let looked_at = came.saturating_sub(now_dropped - dropped);
    let most = 4_000 + 2_000 * (took.as_secs() + 1);
    let late = answers.iter().filter(|t| t.is_none_or(|t| t > Duration::from_secs(1))).count();
    let grown = site.memory("VmHWM").saturating_sub(before) / 1024;
    eprintln!(
        "{came} of {sent} were read in {took:?}, {looked_at} looked at; {late} of {} late; p99 {:?}; {grown} MiB",
        answers.len(),
        p99(answers.clone())
    );
    row.made(usize::try_from(came).unwrap());
    row.holds(came >= flood, || format!("only {came} of {sent} were read"));
    row.holds(looked_at <= most, || format!("{looked_at} of {came} were looked at, not {most}"));
    row.holds(
        p99(answers).is_some_and(|t| t < times(Duration::from_secs(5), Duration::from_secs(1))),
        || format!("{late} late"),
    );
    row.holds(grown <= 64, || format!("{grown} MiB more"));
    offers_end(&mut row);
    row.end();
}

/// Datagrams that the service has read on its link, and of these the ones that were strangers' too many.
fn counted(site: &Site) -> (u64, u64) {
    let status = site.api(Client::status).unwrap();
    let counts = &status.counters["dhcp"][0]["counts"];
    let of = |what: &str| counts[what].as_u64().unwrap();
    (of("received"), of("dropped_rate"))
}

/// Whether no datagram lies in its socket.
fn waits_for_none(site: &Site) -> bool {
    let sockets = site.server.run(&["ss", "-Hlun", "sport = :67"]).unwrap();
    sockets.lines().all(|socket| socket.split_whitespace().nth(1) == Some("0"))
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
    let newcomers = Mutex::new(u32::MAX / 2..);
    let another = || {
        let n = newcomers.lock().unwrap().next().expect("another");
        Asker::named(&strangers, made_up(n))
    };

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
            silent(another().discover(Duration::from_secs(2)))?;
            known.discover(Duration::from_millis(700))?;
            silent(another().discover(Duration::from_secs(2)))
        });
        over.store(true, Relaxed);
        flooding.join().unwrap()
    });
    let ended = Instant::now();
    // Each address that strangers may have, to another of them: none is kept for the flood.
    let given = Mutex::new(BTreeSet::new());
    let all = || given.lock().unwrap().len() >= FOR_STRANGERS;
    let take = || {
        let mut newcomer = another();
        while !all() && ended.elapsed() < Duration::from_secs(60) {
            if let Some(addr) = newcomer.lease(Duration::from_secs(1)) {
                given.lock().unwrap().insert(addr);
                newcomer = another();
            }
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(take))));
    let (given, took) = (given.into_inner().unwrap().len(), ended.elapsed());
    eprintln!(
        "offers of {hold} s: the pool was full after {sent} DISCOVERs; {given} free again after {took:?}"
    );
    row.made(sent);
    row.holds(given >= FOR_STRANGERS, || format!("{given} of {FOR_STRANGERS} addresses free after {took:?}"));
}
