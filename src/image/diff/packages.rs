//! What became of the packages from one root to another.

use super::{
    database::{Installed, Package, System},
    versions,
};
use serde::Serialize;
use std::{cmp::Ordering, collections::BTreeMap};

/// Packages that differ.
#[derive(Debug, Default, Serialize)]
pub struct Packages {
    /// In both, in another version (or for another arch).
    pub changed: Vec<ChangedPackage>,
    /// In the new root only.
    pub added: Vec<Package>,
    /// In the old root only.
    pub removed: Vec<Package>,
    /// How many are the same in both.
    pub same: usize,
    /// Databases that can't be read: whose, where, why.
    pub unread: Vec<String>,
}

/// A package in two versions.
#[derive(Debug, Serialize)]
pub struct ChangedPackage {
    /// Which tool installed it, and so whose order counts.
    pub system: System,
    /// Its name.
    pub name: String,
    /// What it was for.
    pub old_arch: String,
    /// What it is for.
    pub new_arch: String,
    /// What it was.
    pub old: String,
    /// What it is.
    pub new: String,
    /// Which way.
    pub way: Way,
}

/// Which way a version went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To an older one.
    Downgraded,
    /// To a newer one.
    Upgraded,
    /// Equal by the system's order, but not the same text; or for another arch.
    Changed,
}

/// Compares; `old` and `new` name the images in what is unread.
pub fn compare(old: Installed, new: Installed, names: [&str; 2]) -> Packages {
    let mut out = Packages::default();
    for (installed, name) in [(&old, names[0]), (&new, names[1])] {
        out.unread.extend(installed.unread.iter().map(|what| format!("{name}: {what}")));
    }
    out.same = old.packages.intersection(&new.packages).count();
    // By name and arch first, so that a package of two archs is followed in each.
    let removed = old.packages.difference(&new.packages).cloned().collect();
    let added = new.packages.difference(&old.packages).cloned().collect();
    let (removed, added) = out.pair(removed, added, |p| (p.system, p.name.clone(), p.arch.clone()));
    (out.removed, out.added) = out.pair(removed, added, |p| (p.system, p.name.clone(), String::new()));
    out.changed.sort_by(|a, b| (a.way, &a.name, &a.old_arch).cmp(&(b.way, &b.name, &b.old_arch)));
    out
}

type Key = (System, String, String);

impl Packages {
    /// Makes a change of what stands alone under its key on both sides; gives back the rest. Several
    /// versions side by side (kernels) come and go instead.
    fn pair(
        &mut self,
        removed: Vec<Package>,
        added: Vec<Package>,
        key: impl Fn(&Package) -> Key,
    ) -> (Vec<Package>, Vec<Package>) {
        let mut sides: BTreeMap<Key, (Vec<Package>, Vec<Package>)> = BTreeMap::new();
        removed.into_iter().for_each(|p| sides.entry(key(&p)).or_default().0.push(p));
        added.into_iter().for_each(|p| sides.entry(key(&p)).or_default().1.push(p));
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (_, (mut old, mut new)) in sides {
            match (old.pop(), new.pop()) {
                (Some(o), Some(n)) if old.is_empty() && new.is_empty() => self.changed.push(changed(o, n)),
                (o, n) => {
                    gone.extend(old.into_iter().chain(o));
                    come.extend(new.into_iter().chain(n));
                }
            }
        }
        (gone, come)
    }
}

fn changed(old: Package, new: Package) -> ChangedPackage {
    let order = match old.system {
        System::Dpkg => versions::dpkg,
        System::Rpm => versions::rpm,
        System::Apk => versions::apk,
    };
    let way = match order(&old.version, &new.version) {
        Ordering::Less => Way::Upgraded,
        Ordering::Greater => Way::Downgraded,
        Ordering::Equal => Way::Changed,
    };
    ChangedPackage {
        system: old.system,
        name: old.name,
        old_arch: old.arch,
        new_arch: new.arch,
        old: old.version,
        new: new.version,
        way,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(words: &[&str]) -> Installed {
        let package = |w: &&str| {
            let mut parts = w.split(' ').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            Package { name: next(), version: next(), arch: next(), system: System::Dpkg }
        };
        Installed { packages: words.iter().map(package).collect(), unread: Vec::new() }
    }

    #[test]
    fn versions_move_and_what_stands_side_by_side_comes_and_goes() {
        let old = installed(&[
            "a 1 amd64",
            "b 2 amd64",
            "c 1 amd64",
            "gone 1 all",
            "kernel 5 amd64",
            "kernel 6 amd64",
            "libc 1 amd64",
            "libc 1 i386",
            "to-all 1 amd64",
        ]);
        let new = installed(&[
            "a 1 amd64",
            "b 10 amd64",
            "c 1~rc1 amd64",
            "new 1 all",
            "kernel 6 amd64",
            "kernel 7 amd64",
            "kernel 8 amd64",
            "libc 2 amd64",
            "libc 1 i386",
            "to-all 1 all",
        ]);
        let got = compare(old, new, ["x", "y"]);
        let changed: Vec<_> =
            got.changed.iter().map(|c| format!("{:?} {} {} {}", c.way, c.name, c.old, c.new)).collect();
        assert_eq!(
            changed,
            ["Downgraded c 1 1~rc1", "Upgraded b 2 10", "Upgraded libc 1 2", "Changed to-all 1 1"]
        );
        let list = |p: &[Package]| p.iter().map(|p| format!("{} {}", p.name, p.version)).collect::<Vec<_>>();
        assert_eq!(list(&got.added), ["kernel 7", "kernel 8", "new 1"]);
        assert_eq!(list(&got.removed), ["gone 1", "kernel 5"]);
        assert_eq!(got.same, 3);
    }
}
