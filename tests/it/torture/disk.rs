//! Disks that are full, broken or stuck, and a database that rots.

use super::{
    super::api::Dir,
    Row,
    leases::mac,
    mounted::{BOUND, Site},
    times,
};
use pristine::{
    client::{Client, ClientError},
    model::{Digest, LeaseState},
    store::db::Db,
};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Seconds of a lease, where nothing else is configured.
const HOUR: u32 = 3_600;
/// Within which all is well after a disk takes something again.
const BACK: Duration = Duration::from_secs(5);
/// Of nobody who has a lease.
const NEWCOMER: u32 = 900_000;

/// A machine with a lease, and what it fetches in a boot.
struct Known {
    n: u32,
    addr: Ipv4Addr,
}

impl Known {
    fn new(site: &Site, n: u32) -> Known {
        Known { n, addr: site.lease_at_last(n).0 }
    }

    /// DHCP, script, kernel and root.
    fn boots(&self, site: &Site, row: &mut Row, when: &str) {
        let time = site.renew(self.n, self.addr);
        row.holds(time.is_some_and(|t| (1..=HOUR).contains(&t)), || {
            format!("{when}: {} can't renew: {time:?}", self.addr)
        });
        let (code, text) = site.script(self.n, self.addr);
        row.holds(code == 200 && text.contains(&site.kernel.to_string()), || {
            format!("{when}: script {code}: {text}")
        });
        let (code, body) = site.http(self.addr, &[], &format!("/blobs/{}", site.kernel));
        row.holds(code == 200 && Digest::of(&body) == site.kernel, || format!("{when}: kernel {code}"));
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
fn all_again(site: &Site, row: &mut Row, n: u32, when: &str) -> Ipv4Addr {
    let began = Instant::now();
    let (addr, _) = site.lease_at_last(n);
    let mut order = site.api(|client| client.pin("52:54:00:00:00:78", "local").map(drop));
    while order.is_err() && began.elapsed() < BOUND {
        order = site.api(|client| client.pin("52:54:00:00:00:78", "local").map(drop));
    }
    let took = began.elapsed();
    row.holds(took < BACK, || format!("{when}: well again after {took:?}"));
    let alarms = site.alarms();
    row.holds(!alarms.iter().any(|a| a.contains("could not be written")), || format!("{when}: {alarms:?}"));
    addr
}

/// Every lease is on disk, after a kill.
fn on_disk(site: &mut Site, row: &mut Row, leases: &[(u32, Ipv4Addr)], when: &str) {
    site.service.kill();
    // SQLite doesn't find its files through /proc/<pid>/root.
    let copy = Dir::new("copy");
    for file in ["pristine.db", "pristine.db-wal"] {
        let _ = fs::copy(site.disk.path().join("state").join(file), copy.0.join(file));
    }
    let loaded = Db::open_read_only(&copy.0).unwrap().expect("a database");
    let all: BTreeMap<Ipv4Addr, _> = loaded.leases.iter().map(|l| (l.addr, l)).collect();
    for (n, addr) in leases {
        let lease = all.get(addr);
        row.holds(lease.is_some_and(|l| l.mac == mac(*n) && l.state == LeaseState::Bound), || {
            format!("{when}: {addr} of {n} is {lease:?}")
        });
    }
}

#[test]
fn a_full_disk() {
    let mut row = Row::new("disk full");
    let mut site = Site::up(24);
    let known = Known::new(&site, 1);
    let mut leases = vec![(1, known.addr)];
    for round in 0..times(1, 20) {
        let newcomer = NEWCOMER + round;
        site.fill();
        nothing_new(&site, &mut row, newcomer, "full", "full");
        known.boots(&site, &mut row, "full");
        if round % 2 == 1 {
            // And it starts on a full disk as well.
            site.service.kill();
            site.service.run(&site.server).unwrap();
            known.boots(&site, &mut row, "full, after a kill");
        }
        site.disk.make_room();
        leases.push((newcomer, all_again(&site, &mut row, newcomer, "room again")));
        row.made(1);
    }
    on_disk(&mut site, &mut row, &leases, "at the end");
    row.end();
}

#[test]
fn a_disk_that_became_read_only() {
    let mut row = Row::new("disk read-only");
    for round in 0..times(1, 10) {
        let mut site = Site::up(24);
        let known = Known::new(&site, 1);
        site.disk.breaks();
        let newcomer = NEWCOMER + round;
        nothing_new(&site, &mut row, newcomer, "read-only", "could not be written");
        known.boots(&site, &mut row, "read-only");
        site.service.kill();
        site.disk.repaired();
        site.service.run(&site.server).unwrap();
        known.boots(&site, &mut row, "after a repair");
        let addr = all_again(&site, &mut row, newcomer, "after a repair");
        on_disk(&mut site, &mut row, &[(1, known.addr), (newcomer, addr)], "at the end");
        row.made(1);
    }
    row.end();
}

#[test]
fn a_disk_that_hangs() {
    let mut row = Row::new("disk slow");
    let mut site = Site::up(24);
    let known = Known::new(&site, 1);
    let mut leases = vec![(1, known.addr)];
    for round in 0..times(1, 20) {
        let newcomer = NEWCOMER + round;
        site.disk.freeze();
        let acked = site.lease(newcomer, Duration::from_secs(1));
        row.holds(acked.is_none(), || format!("{acked:?} was acknowledged by a disk that hangs"));
        known.boots(&site, &mut row, "it hangs");
        let until = Instant::now() + BOUND;
        while !site.alarms().iter().any(|a| a.starts_with("disk: ") && a.contains("hangs")) {
            assert!(Instant::now() < until, "no alarm: {:?}", site.api(Client::status));
        }
        site.disk.thaw();
        leases.push((newcomer, all_again(&site, &mut row, newcomer, "it goes on")));
        row.made(1);
    }
    on_disk(&mut site, &mut row, &leases, "at the end");
    row.end();
}

/// Every page but the first is overwritten beneath the running service, which finds out when it opens the
/// database anew.
#[test]
fn a_database_that_rots() {
    let mut row = Row::new("database page corrupted");
    for round in 0..times(1, 20) {
        let mut site = Site::up(24);
        let known = Known::new(&site, 1);
        let file = site.disk.path().join("state/pristine.db");
        site.service.stop(BOUND).unwrap();
        let wal = file.with_file_name("pristine.db-wal");
        let (good, log) = (fs::read(&file).unwrap(), fs::read(&wal).unwrap_or_default());
        site.service.run(&site.server).unwrap();
        let mut bad = good.clone();
        bad[4096..].iter_mut().for_each(|b| *b ^= 0xa5);
        fs::write(&file, &bad).unwrap();
        site.fill();
        site.disk.make_room();
        let until = Instant::now() + BOUND;
        while !site.alarms().iter().any(|a| a.contains("is damaged")) {
            // Read from the disk now, for the first time.
            let _ = site.api(|client| client.set_rule("racks", "rack=a1", "local").map(drop));
            assert!(Instant::now() < until, "no alarm: {:?} {}", site.alarms(), site.log());
        }
        nothing_new(&site, &mut row, NEWCOMER + round, "rotten", "is damaged");
        known.boots(&site, &mut row, "rotten");
        // The next start says so and touches nothing; with the backup all is there.
        site.service.kill();
        let refused = site.service.run(&site.server).map_err(|e| e.to_string());
        let named = refused.as_ref().is_err_and(|why| why.contains("pristine.db is damaged"));
        row.holds(named, || format!("it starts on a database that rots: {refused:?}"));
        let _ = fs::remove_file(file.with_file_name("pristine.db-shm"));
        fs::write(&file, &good).unwrap();
        fs::write(&wal, &log).unwrap();
        site.service.run(&site.server).unwrap();
        known.boots(&site, &mut row, "with its backup");
        row.made(1);
    }
    row.end();
}
