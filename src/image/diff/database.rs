//! The package databases of dpkg, apk and rpm, as they lie in a root filesystem.

use super::rpm;
use crate::image::squash_read::{File, Kind, ReadError, Squashfs, walk::Listing};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    io::{Read, Seek},
};

/// Most bytes of a database; that of a full Debian has 8 MiB.
const MAX_DATABASE: u64 = 256 << 20;
/// Where dpkg keeps its database; images without dpkg itself have a file a package in the folder.
const DPKG: &str = "var/lib/dpkg/status";
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
const RPM: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];

/// Which tool installed a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum System {
    Dpkg,
    Rpm,
    Apk,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            System::Dpkg => "dpkg",
            System::Rpm => "rpm",
            System::Apk => "apk",
        })
    }
}

/// A package that is installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Package {
    /// Which tool installed it.
    pub system: System,
    /// As in `openssl`.
    pub name: String,
    /// As in `amd64`; empty where the database says nothing.
    pub arch: String,
    /// As in `3.0.13-1~deb12u1`.
    pub version: String,
}

/// What the databases of one root say.
#[derive(Debug, Default)]
pub struct Installed {
    /// The packages.
    pub packages: BTreeSet<Package>,
    /// Databases that are there and can't be read: which, and why.
    pub unread: Vec<String>,
}

/// Reads every package database in `sq`, whose names are `listing`.
pub fn read<R: Read + Seek>(sq: &mut Squashfs<R>, listing: &Listing) -> Result<Installed, ReadError> {
    let mut found = Installed::default();
    let file = |path: &str| match listing.get(path.as_bytes()).map(|node| &node.kind) {
        Some(Kind::File(file)) => Some(*file),
        _ => None,
    };
    let mut text = |file: &File| -> Result<String, ReadError> {
        Ok(String::from_utf8_lossy(&sq.read(file, MAX_DATABASE)?).into_owned())
    };
    if let Some(status) = file(DPKG) {
        dpkg(&text(&status)?, &mut found);
    }
    let folder = format!("{DPKG}.d/");
    for (path, node) in listing.range(folder.clone().into_bytes()..) {
        if !path.starts_with(folder.as_bytes()) {
            break;
        }
        if let Kind::File(file) = &node.kind
            && !path.ends_with(b".md5sums")
        {
            dpkg(&text(file)?, &mut found);
        }
    }
    for installed in APK.iter().filter_map(|path| file(path)) {
        apk(&text(&installed)?, &mut found);
    }
    for folder in RPM {
        let within = |name: &str| format!("{folder}/{name}");
        if let Some(sqlite) = file(&within("rpmdb.sqlite")) {
            let wal = file(&within("rpmdb.sqlite-wal")).is_some_and(|wal| wal.size > 0);
            match rpm::packages(sq.read(&sqlite, MAX_DATABASE)?) {
                Ok(packages) => found.packages.extend(packages),
                Err(why) => found.unread.push(format!("/{}: {why}", within("rpmdb.sqlite"))),
            }
            if wal {
                found.unread.push(format!(
                    "/{}: holds changes that the database itself lacks yet; `rpm --rebuilddb` while building the image puts them in",
                    within("rpmdb.sqlite-wal")
                ));
            }
        }
        for (name, format) in [("Packages.db", "ndb"), ("Packages", "Berkeley DB")] {
            if file(&within(name)).is_some() {
                let path = within(name);
                found
                    .unread
                    .push(format!("/{path}: a database in rpm's {format} format, which Pristine can't read"));
            }
        }
    }
    Ok(found)
}

/// Adds what a dpkg status file says (deb822 paragraphs): installed packages, not the remains of others.
fn dpkg(text: &str, found: &mut Installed) {
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| {
                line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned())
            })
        };
        let (Some(name), Some(version)) = (field("Package"), field("Version")) else { continue };
        let state = field("Status");
        let state = state.as_deref().and_then(|s| s.split_whitespace().nth(2)).unwrap_or("installed");
        if !matches!(state, "config-files" | "not-installed") {
            let arch = field("Architecture").unwrap_or_default();
            found.packages.insert(Package { system: System::Dpkg, name, arch, version });
        }
    }
}

/// Adds what an apk database says: paragraphs of `P:` name, `V:` version, `A:` arch and more.
fn apk(text: &str, found: &mut Installed) {
    for paragraph in text.split("\n\n") {
        let field = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
        let (Some(name), Some(version)) = (field("P:"), field("V:")) else { continue };
        let arch = field("A:").unwrap_or_default();
        found.packages.insert(Package { system: System::Apk, name, arch, version });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &Installed) -> Vec<String> {
        found.packages.iter().map(|p| format!("{} {} {}", p.name, p.version, p.arch)).collect()
    }

    #[test]
    fn dpkg_counts_what_is_installed_only() {
        let mut found = Installed::default();
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2-3\nDescription: x\n Version: 9\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n\
            Package: b\nStatus: install ok half-configured\nVersion: 2\nArchitecture: all\n\n\nno field\n";
        dpkg(status, &mut found);
        assert_eq!(names(&found), ["a 1:2-3 amd64", "b 2 all"]);
    }

    #[test]
    fn apk_has_a_line_a_field() {
        let mut found = Installed::default();
        apk("C:Q1abc\nP:musl\nV:1.2.4-r2\nA:x86_64\nF:lib\nR:ld.so\n\nP:no-version\n\n", &mut found);
        assert_eq!(names(&found), ["musl 1.2.4-r2 x86_64"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(Package: a\n|Version: 1\n|P:x\n|V:1\n|\n|:|.){0,20}") {
            let mut found = Installed::default();
            dpkg(&text, &mut found);
            apk(&text, &mut found);
        }
    }
}
