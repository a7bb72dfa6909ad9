//! Disks that are full, broken or stuck, and a database that rots.

use super::{
    super::api::Dir,
    Row,
    blobs::Random,
    boots::token,
    leases::mac,
    mounted::{Ack, BOUND, Site},
    times,
};
use pristine::{
    client::{Client, ClientError},
    lab::{Running, tethered},
    model::{Digest, Lease, LeaseState},
    store::db::Db,
};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Seconds of a lease, where nothing else is configured.
const HOUR: u32 = 3_600;
/// Within which all is well after a disk takes something again.
const BACK: Duration = Duration::from_secs(5);
/// Bytes of a page of the database.
const PAGE: usize = 4096;
/// Of nobody who has a lease.
const NEWCOMER: u32 = 900_000;

/// How the disk is for a machine that renews its lease.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Everything,
    Nothing,
    Perhaps,
}

/// A machine with a lease, and what it fetches in a boot.
struct Known {
    /// Its last ACK for a full hour, which so was saved.
    saved: Ack,
    /// The ACK that promises most.
    longest: Ack,
}

impl Known {
    fn new(site: &Site, n: u32) -> Known {
        let ack = site.lease_at_last(n);
        Known { saved: ack, longest: ack }
    }

    /// DHCP, script, kernel, initramfs, root and a report. Where the disk takes nothing, for no longer than what is saved, and the
    /// report is not acknowledged.
    fn boots(&mut self, site: &Site, row: &mut Row, disk: Takes, when: &str) {
        let Ack { n, addr, heard, .. } = self.saved;
        if disk != Takes::Everything {
            // Otherwise a full hour could not be told from what is left of it.
            let aged = Duration::from_secs(2);
            while heard.elapsed() < aged {
                std::thread::park_timeout(aged.saturating_sub(heard.elapsed()));
            }
        }
        let left = match disk {
            Takes::Everything => HOUR,
            Takes::Nothing | Takes::Perhaps => HOUR - u32::try_from(heard.elapsed().as_secs()).unwrap(),
        };
        let ack = site.renew(n, addr);
        let time = ack.map(|a| a.seconds);
        let anew = |t| disk == Takes::Perhaps && t == HOUR;
        row.holds(time.is_some_and(|t| (1..=left).contains(&t) || anew(t)), || {
            format!("{when}: {addr} has {left} s left and is renewed for {time:?}")
        });
        if let Some(ack) = ack {
            self.saved = if ack.seconds == HOUR { ack } else { self.saved };
            self.longest = if ack.until() > self.longest.until() { ack } else { self.longest };
        }
        let (code, text) = site.script(n, addr);
        row.holds(code == 200 && text.contains(&site.kernel.to_string()), || {
            format!("{when}: script {code}: {text}")
        });
        for (what, blob) in
            [("kernel", site.kernel), ("initramfs", Digest::of(b"initramfs")), ("root", site.root)]
        {
            let (code, body) = site.http(addr, &[], &format!("/blobs/{blob}"));
            row.holds(code == 200 && Digest::of(&body) == blob, || format!("{when}: {what} {code}"));
        }
        let bearer = format!("Authorization: Bearer {}", token(&text).unwrap_or_default());
        // Of one that hangs nobody is told anything.
        let words = ["--max-time", "3", "-H", &bearer, "-d", r#"{"stage":"init"}"#];
        let (code, said) = site.http(addr, &words, "/boot/report");
        let told = match disk {
            Takes::Everything => code == 204,
            Takes::Nothing => [0, 503].contains(&code),
            Takes::Perhaps => [0, 204, 503].contains(&code),
        };
        row.holds(told, || format!("{when}: a report {code}: {}", String::from_utf8_lossy(&said)));
    }
}

/// While nothing can be saved: no newcomer gets an address, no order is taken, and operators are told why.
fn nothing_new(site: &Site, row: &mut Row, n: u32, when: &str, reason: &str) {
    let acked = site.lease(n, Duration::from_millis(700));
    row.holds(acked.is_none(), || format!("{when}: {acked:?} was acknowledged"));
    let order = site.api(|client| client.pin("52:54:00:00:00:77", "local").map(drop));
    let said = format!("{order:?}");
    row.holds(
        matches!(&order, Err(ClientError::Refused { status: 507, body }) if body.error.contains(reason)),
        || format!("{when}: an order was answered {said}"),
    );
    let alarms = site.alarms();
    row.holds(alarms.iter().any(|a| a.starts_with("disk: ") && a.contains(reason)), || {
        format!("{when}: alarms {alarms:?}")
    });
    let token = fs::read_to_string(site.disk.path().join("state/api-token")).unwrap();
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let metrics = site.server.run(&["curl", "-s", "-H", &bearer, "http://127.0.0.1:8081/metrics"]).unwrap();
    row.holds(!metrics.contains("pristine_alarms 0\n") && metrics.contains("pristine_alarms "), || {
        format!("{when}: {metrics}")
    });
}

/// The disk takes something again: the newcomer gets its address, orders are taken, the alarm is over.
fn all_again(site: &Site, row: &mut Row, n: u32, when: &str) -> Ack {
    let began = Instant::now();
    let ack = site.lease_at_last(n);
    let mut order = site.api(|client| client.pin("52:54:00:00:00:78", "local").map(drop));
    while order.is_err() && began.elapsed() < BOUND {
        order = site.api(|client| client.pin("52:54:00:00:00:78", "local").map(drop));
    }
    let took = began.elapsed();
    row.holds(took < BACK, || format!("{when}: well again after {took:?}"));
    let alarms = site.alarms();
    row.holds(!alarms.iter().any(|a| a.contains("could not be written")), || format!("{when}: {alarms:?}"));
    ack
}

/// Every lease is on disk for as long as it was promised, after a kill.
fn on_disk(site: &mut Site, row: &mut Row, leases: &[Ack], when: &str) {
    site.service.kill();
    // SQLite doesn't find its files through /proc/<pid>/root.
    let copy = Dir::new("copy");
    for file in ["pristine.db", "pristine.db-wal"] {
        let _ = fs::copy(site.disk.path().join("state").join(file), copy.0.join(file));
    }
    let loaded = Db::open_read_only(&copy.0).unwrap().expect("a database");
    let all: BTreeMap<Ipv4Addr, _> = loaded.leases.iter().map(|l| (l.addr, l)).collect();
    for ack in leases {
        let lease = all.get(&ack.addr);
        // Its clock and ours are the same, but for how it is slewed.
        let covers = |l: &Lease| l.expires + 1_000 >= ack.until();
        let kept = lease.is_some_and(|l| l.mac == mac(ack.n) && l.state == LeaseState::Bound && covers(l));
        row.holds(kept, || format!("{when}: promised {ack:?}, until {}, and it is {lease:?}", ack.until()));
    }
}

#[test]
fn a_full_disk() {
    let mut row = Row::new("disk full");
    let mut site = Site::up(24);
    let mut known = Known::new(&site, 1);
    let mut leases = Vec::new();
    for round in 0..times(1, 20) {
        let [newcomer, another] = [NEWCOMER + round, NEWCOMER + 1_000 + round];
        site.fill();
        nothing_new(&site, &mut row, newcomer, "full", "full");
        known.boots(&site, &mut row, Takes::Nothing, "full");
        // Without a restart.
        site.disk.make_room();
        leases.push(all_again(&site, &mut row, newcomer, "room again"));
        known.boots(&site, &mut row, Takes::Everything, "room again");
        site.fill();
        nothing_new(&site, &mut row, another, "full again", "full");
        // And it starts on a full disk as well. What it puts in order then may give some room back.
        site.service.kill();
        site.service.run(&site.server).unwrap();
        known.boots(&site, &mut row, Takes::Perhaps, "full, after a kill");
        on_disk(&mut site, &mut row, &[known.longest], "full, after a kill");
        site.service.run(&site.server).unwrap();
        site.disk.make_room();
        leases.push(all_again(&site, &mut row, another, "room again after a kill"));
        known.boots(&site, &mut row, Takes::Everything, "room again after a kill");
        row.made(1);
    }
    leases.push(known.longest);
    on_disk(&mut site, &mut row, &leases, "at the end");
    row.end();
}

#[test]
fn a_disk_that_became_read_only() {
    let mut row = Row::new("disk read-only");
    for round in 0..times(1, 10) {
        let mut site = Site::up(24);
        let mut known = Known::new(&site, 1);
        site.disk.breaks();
        let newcomer = NEWCOMER + round;
        nothing_new(&site, &mut row, newcomer, "read-only", "could not be written");
        known.boots(&site, &mut row, Takes::Nothing, "read-only");
        site.service.kill();
        site.disk.repaired();
        site.service.run(&site.server).unwrap();
        known.boots(&site, &mut row, Takes::Everything, "after a repair");
        let ack = all_again(&site, &mut row, newcomer, "after a repair");
        on_disk(&mut site, &mut row, &[known.longest, ack], "at the end");
        row.made(1);
    }
    row.end();
}

#[test]
fn a_disk_that_hangs() {
    let mut row = Row::new("disk slow");
    let mut site = Site::up(24);
    let mut known = Known::new(&site, 1);
    let mut leases = Vec::new();
    for round in 0..times(1, 20) {
        let newcomer = NEWCOMER + round;
        site.disk.freeze();
        // Longer than the service waits for the disk.
        let acked = site.lease(newcomer, Duration::from_secs(10));
        row.holds(acked.is_none(), || format!("{acked:?} was acknowledged by a disk that hangs"));
        known.boots(&site, &mut row, Takes::Nothing, "it hangs");
        let until = Instant::now() + BOUND;
        while !site.alarms().iter().any(|a| a.starts_with("disk: ") && a.contains("hangs")) {
            assert!(Instant::now() < until, "no alarm: {:?}", site.api(Client::status));
        }
        // An order is refused as soon as that is known.
        let order = site.api(|client| client.pin("52:54:00:00:00:77", "local").map(drop));
        let told = |e: &ClientError| matches!(e, ClientError::Refused { status: 507, body } if body.error.contains("hangs"));
        row.holds(order.as_ref().is_err_and(told), || format!("it hangs: an order was answered {order:?}"));
        site.disk.thaw();
        leases.push(all_again(&site, &mut row, newcomer, "it goes on"));
        let pinned = site.api(|client| client.machine("52:54:00:00:00:77")).ok().and_then(|m| m.pin);
        row.holds(pinned.is_none(), || format!("a refused order was carried out: {pinned:?}"));
        known.boots(&site, &mut row, Takes::Everything, "it goes on");
        row.made(1);
    }
    leases.push(known.longest);
    on_disk(&mut site, &mut row, &leases, "at the end");
    // One that takes its time and hangs never: ACKs are late, and of what is saved.
    for round in 0..times(1, 10) {
        site.service.run(&site.server).unwrap();
        let mut strace = slow(&site);
        let begun = Instant::now();
        let late = site.lease(NEWCOMER + 1_000 + round, BOUND);
        row.holds(late.is_some() && begun.elapsed() >= LATE, || {
            format!("{late:?} after {:?} on a disk that takes {LATE:?}", begun.elapsed())
        });
        let renewed = site.renew(1, known.saved.addr);
        row.holds(renewed.is_some(), || "no renewal on a slow disk".into());
        let acks: Vec<Ack> = late.into_iter().chain(renewed).collect();
        on_disk(&mut site, &mut row, &acks, "slow");
        strace.kill();
        row.made(1);
    }
    row.end();
}

/// How long a slow disk takes for each sync.
const LATE: Duration = Duration::from_secs(1);

/// The disk is slow for the service from now on, until that ends.
fn slow(site: &Site) -> Running {
    let pid = site.service.pid().unwrap();
    let inject = format!("inject=fsync,fdatasync:delay_enter={}", LATE.as_micros());
    let mut command = tethered("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject]);
    command.args(["-p", &pid.to_string()]);
    let strace = Running::start(command, "strace").unwrap();
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let traced = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    };
    let until = Instant::now() + BOUND;
    while !tasks().all(traced) {
        assert!(Instant::now() < until, "strace doesn't attach");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    strace
}

/// A page is overwritten beneath the running service, which finds out when it reads it, and before a start. Never is
/// what it says read as something else. The first page of all, or one at random.
#[test]
fn a_database_that_rots() {
    let mut row = Row::new("database page corrupted");
    let mut random = Random(7);
    let (rounds, mut noticed) = (times(3, 40), (0, 0));
    for round in 0..rounds {
        let mut site = Site::up(24);
        let mut known = Known::new(&site, 1);
        let file = site.disk.path().join("state/pristine.db");
        site.service.stop(BOUND).unwrap();
        let wal = file.with_file_name("pristine.db-wal");
        let (good, log) = (fs::read(&file).unwrap(), fs::read(&wal).unwrap_or_default());
        site.service.run(&site.server).unwrap();
        let mut bad = good.clone();
        // All but the first at once in one round.
        let pages = u64::try_from(good.len() / PAGE).unwrap();
        let one = (round > 0).then(|| usize::try_from(random.below(pages)).unwrap());
        let part = one.map_or(PAGE..good.len(), |page| page * PAGE..(page + 1) * PAGE);
        bad[part].iter_mut().for_each(|b| *b ^= 0xa5);
        let what = one.map_or("all pages".to_owned(), |page| format!("page {page} of {pages}"));
        fs::write(&file, &bad).unwrap();
        site.fill();
        site.disk.make_room();
        let until = Instant::now() + BOUND;
        let mut tries = 0;
        let found = loop {
            // Read from the disk now, for the first time.
            let order = site.api(|client| client.set_rule("racks", "rack=a1", "local").map(drop));
            let full = |e: &ClientError| matches!(e, ClientError::Refused { status: 507, .. });
            row.holds(order.as_ref().err().is_none_or(full), || format!("{what}: an order got {order:?}"));
            if site.alarms().iter().any(|a| a.contains("is damaged")) {
                break true;
            }
            tries += usize::from(order.is_ok());
            // A page that no order needs.
            if one.is_some() && tries >= 3 {
                break false;
            }
            assert!(Instant::now() < until, "{what}: no alarm: {:?} {}", site.alarms(), site.log());
        };
        noticed.0 += usize::from(found);
        if found {
            nothing_new(&site, &mut row, NEWCOMER + round, &what, "is damaged");
        }
        known.boots(&site, &mut row, if found { Takes::Nothing } else { Takes::Perhaps }, &what);
        // The next start says so, or needs nothing of it; with the backup all is there.
        site.service.kill();
        fs::write(&file, &bad).unwrap();
        fs::write(&wal, &log).unwrap();
        let _ = fs::remove_file(file.with_file_name("pristine.db-shm"));
        match site.service.run(&site.server) {
            Ok(()) => {
                row.holds(one.is_some(), || format!("{what}: it starts on a database that rots"));
                known.boots(&site, &mut row, Takes::Perhaps, &what);
                site.service.kill();
            }
            Err(why) => {
                noticed.1 += 1;
                let said = why.to_string();
                row.holds(said.contains("pristine.db is damaged"), || {
                    format!("{what}: it doesn't start: {said}")
                });
            }
        }
        let _ = fs::remove_file(file.with_file_name("pristine.db-shm"));
        fs::write(&file, &good).unwrap();
        fs::write(&wal, &log).unwrap();
        site.service.run(&site.server).unwrap();
        known.boots(&site, &mut row, Takes::Everything, "with its backup");
        row.made(1);
    }
    let enough = (usize::try_from(rounds).unwrap() / 8).max(1);
    row.holds(noticed.0.min(noticed.1) >= enough, || format!("noticed {noticed:?} of {rounds}"));
    row.end();
}
