//! rpm's database in SQLite (`rpmdb.sqlite`): a row a package, each a header (rpm's `lib/header.c`) with
//! tags of which five matter here.

use super::database::{Package, System};
use rusqlite::{Connection, config::DbConfig, limits::Limit};
use std::io::Cursor;

/// Most packages of one database.
const MAX_PACKAGES: usize = 200_000;
/// Longest header; that of a kernel's package has some MiB.
const MAX_HEADER: i32 = 64 << 20;
/// Instructions of SQLite's machine between two looks at the bound, and how many looks.
const STEPS: (i32, u32) = (100_000, 10_000);
/// Most tags of a header, and most bytes (rpm's own bounds are larger).
const MAX_TAGS: usize = 1 << 16;

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const ARCH: u32 = 1022;

/// The packages in a database, whose bytes are `database`; else why it can't be read.
///
/// The bytes are an image's: what they hold runs nothing. Only a plain table is read, in memory, with a
/// bound on the work.
pub fn packages(mut database: Vec<u8>) -> Result<Vec<Package>, String> {
    if !database.starts_with(b"SQLite format 3\0") {
        return Err("it is no SQLite database".into());
    }
    // A database in memory can't have a write-ahead log beside it; the image's says itself if it isn't empty.
    database.get_mut(18..20).into_iter().for_each(|modes| modes.fill(1));
    let size = database.len();
    read(Cursor::new(database), size).map_err(|e| format!("it is damaged: {e}"))?
}

fn read(database: Cursor<Vec<u8>>, size: usize) -> rusqlite::Result<Result<Vec<Package>, String>> {
    let mut db = Connection::open_in_memory()?;
    db.deserialize_read_exact("main", database, size, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_HEADER)?;
    let mut looks = STEPS.1;
    db.progress_handler(
        STEPS.0,
        Some(move || {
            looks = looks.saturating_sub(1);
            looks == 0
        }),
    )?;
    let plain = "SELECT count(*) FROM sqlite_schema WHERE name = 'Packages' AND type = 'table' AND sql LIKE 'CREATE TABLE%'";
    if db.query_row(plain, [], |row| row.get::<_, i64>(0))? != 1 {
        return Ok(Err("it has no table of packages".into()));
    }
    let mut query = db.prepare("SELECT blob FROM Packages")?;
    let mut rows = query.query([])?;
    let mut packages = Vec::new();
    while let Some(row) = rows.next()? {
        let header = row.get_ref(0)?.as_blob().unwrap_or_default();
        match header_package(header) {
            Some(package) => packages.push(package),
            None => return Ok(Err("a package in it has a header that can't be read".into())),
        }
        if packages.len() > MAX_PACKAGES {
            return Ok(Err(format!("it has more than {MAX_PACKAGES} packages")));
        }
    }
    // What rpm keeps of imported keys.
    packages.retain(|p| p.name != "gpg-pubkey");
    Ok(Ok(packages))
}

/// The package that a header is of.
fn header_package(header: &[u8]) -> Option<Package> {
    let number = |at: usize| header.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b));
    let (tags, bytes) = (number(0)? as usize, number(4)? as usize);
    if tags > MAX_TAGS {
        return None;
    }
    let data = header.get(8 + tags * 16..)?.get(..bytes)?;
    let find = |wanted: u32| {
        (0..tags).map(|n| 8 + n * 16).find(|at| number(*at) == Some(wanted)).and_then(|at| {
            let offset = number(at + 8)? as usize;
            Some((number(at + 4)?, data.get(offset..)?))
        })
    };
    let text = |tag| {
        let (_, rest) = find(tag).filter(|(kind, _)| *kind == 6)?;
        let end = rest.iter().position(|b| *b == 0)?;
        Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
    };
    let epoch = match find(EPOCH) {
        Some((4, rest)) => format!("{}:", u32::from_be_bytes(*rest.first_chunk()?)),
        _ => String::new(),
    };
    Some(Package {
        system: System::Rpm,
        name: text(NAME)?,
        arch: text(ARCH).unwrap_or_default(),
        version: format!("{epoch}{}-{}", text(VERSION)?, text(RELEASE)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::store::testing::TempDir;
    use std::{fs, process::Command, sync::OnceLock};

    /// A database that rpm itself made.
    fn real() -> &'static [u8] {
        static MADE: OnceLock<Vec<u8>> = OnceLock::new();
        MADE.get_or_init(|| {
            let dir = TempDir::new();
            let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let spec = "Name: hello\nVersion: 1.2~rc1\nRelease: 3\nEpoch: 2\nSummary: x\nLicense: MIT\nBuildArch: noarch\n%description\nx\n%files\n";
            fs::write(at("hello.spec"), spec).unwrap();
            let run = |program: &str, words: &[&str]| {
                let out = Command::new(program).args(words).output().unwrap();
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            };
            run("rpmbuild", &["--define", &format!("_topdir {}", at("top")), "-bb", &at("hello.spec")]);
            let package = at("top/RPMS/noarch/hello-1.2~rc1-3.noarch.rpm");
            fs::create_dir(at("root")).unwrap();
            let options = ["--dbpath", "/db", "--justdb", "--nodeps", "-i"];
            run("rpm", &[&["--root", &at("root")], &options[..], &[&package]].concat());
            fs::read(at("root/db/rpmdb.sqlite")).unwrap()
        })
    }

    #[test]
    fn reads_what_rpm_wrote() {
        let packages = packages(real().to_vec()).unwrap();
        let [hello] = &packages[..] else { unreachable!("{packages:?}") };
        assert_eq!(
            (hello.name.as_str(), hello.arch.as_str(), hello.version.as_str()),
            ("hello", "noarch", "2:1.2~rc1-3")
        );
    }

    #[test]
    fn other_and_hostile_databases_are_refused_in_words() {
        assert!(packages(b"ndb".to_vec()).unwrap_err().contains("no SQLite"));
        let made = |sql: &str| {
            let mut db = Connection::open_in_memory().unwrap();
            db.execute_batch(sql).unwrap();
            db.serialize("main").unwrap().to_vec()
        };
        assert!(packages(made("CREATE TABLE x (a)")).unwrap_err().contains("no table of packages"));
        // A view that would count for ever.
        let endless = "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT x'00' UNION ALL SELECT blob FROM n) SELECT blob FROM n";
        assert!(packages(made(endless)).unwrap_err().contains("no table of packages"));
        let odd = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB); INSERT INTO Packages VALUES (1, x'00ff');";
        assert!(packages(made(odd)).unwrap_err().contains("header"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn damage_is_an_error_or_harmless(changes in proptest::collection::vec((0usize..220_000, proptest::num::u8::ANY), 1..40)) {
            let mut bytes = real().to_vec();
            for (at, byte) in changes {
                if let Some(b) = bytes.get_mut(at) { *b = byte; }
            }
            let _ = packages(bytes);
        }

        #[test]
        fn any_header_is_answered(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), tags in 0u8..8, len in 0u8..100) {
            let _ = header_package(&bytes);
            let _ = header_package(&[&[0, 0, 0, tags, 0, 0, 0, len], &bytes[..]].concat());
        }
    }
}
