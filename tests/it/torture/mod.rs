//! Faults made on purpose, and what must hold under each. A row of the table is a test like any other: short in
//! `cargo test`, long under `make torture`, which prints the table. `faults.txt` lists the rows.

mod blobs;
mod boots;
mod changes;
mod cut;
mod dhcp;
mod disk;
mod flood;
mod http;
mod imports;
mod junk;
mod leases;
mod line;
mod metadata;
mod mounted;
mod power;
mod pushes;
mod replies;
mod site;
mod smuggling;
mod tftp;

use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// Whether this is the long form: `PRISTINE_TORTURE=long`.
pub fn long() -> bool {
    std::env::var_os("PRISTINE_TORTURE").is_some_and(|form| form == "long")
}

/// How often a fault is made: in the short form and in the long one.
pub fn times<T>(short: T, in_long: T) -> T {
    if long() { in_long } else { short }
}

/// One row of the table, told when it is dropped: `target/torture/ROW.json`, which the table is made of, of the long form, and
/// `target/torture-short/ROW.json` of the other. A test that fails counts as one loss more, so that no row is told as held that wasn't.
pub struct Row {
    fault: &'static str,
    times: u64,
    lost: u64,
    begun: Instant,
}

impl Row {
    /// A row that `faults.txt` names.
    pub fn new(fault: &'static str) -> Row {
        assert!(rows().any(|(row, later)| row == fault && later.is_none()), "no row `{fault}` in faults.txt");
        Row { fault, times: 0, lost: 0, begun: Instant::now() }
    }

    /// The fault was made so many times more.
    pub fn made(&mut self, times: usize) {
        self.times += times as u64;
    }

    /// Counts a loss where it doesn't hold, says which, and goes on.
    #[track_caller]
    pub fn holds(&mut self, held: bool, what: impl FnOnce() -> String) {
        if !held {
            self.lost += 1;
            eprintln!("{}: {}", self.fault, what());
        }
    }

    /// The test ends here where anything was lost.
    #[track_caller]
    pub fn end(self) {
        assert!(self.times > 0, "{}: the fault was never made", self.fault);
        assert_eq!(self.lost, 0, "{}: lost in {} times", self.fault, self.times);
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let lost = self.lost + u64::from(std::thread::panicking() && self.lost == 0);
        let told = json!({
            "fault": self.fault,
            "times": self.times,
            "lost": lost,
            "seconds": self.begun.elapsed().as_secs(),
        });
        let folder = folder();
        let name: String =
            self.fault.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let told = fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(format!("{name}.json")), told.to_string()));
        if let Err(error) = told {
            eprintln!("{}: {error}", folder.display());
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(times("torture-short", "torture"))
}

/// The rows, each with what it waits for where that doesn't exist yet.
fn rows() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let lines = include_str!("faults.txt").lines().map(str::trim);
    lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(|line| match line.split_once(" | not yet: ") {
        Some((fault, why)) => (fault, Some(why)),
        None => (line, None),
    })
}

/// What `make torture` would print: every row has a test that tells it, and no row is named twice.
#[test]
fn every_row_has_its_test() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/torture");
    let sources: String = fs::read_dir(here)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for (fault, later) in rows() {
        let tests = sources.matches(&format!("Row::new(\"{fault}\")")).count();
        assert_eq!(tests, usize::from(later.is_none()), "tests of the row `{fault}`");
    }
}
