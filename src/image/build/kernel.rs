//! The kernel of a root: in /boot, or beside its modules.

use super::super::{
    kernel::{self, Kernel, KernelError},
    source::{Kind, Tree, TreeError},
};
use std::{cmp::Ordering, io::Read as _};

/// Bytes of a kernel's configuration.
const MAX_CONFIG: u64 = 4 << 20;

/// A kernel and what belongs to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its path in the root.
    pub path: String,
    /// What `uname -r` says on it.
    pub release: String,
    /// What its header says.
    pub kernel: Kernel,
    /// Its configuration, where the root has it.
    pub config: Option<String>,
}

/// Why a root has no kernel to boot.
#[derive(Debug, thiserror::Error)]
pub enum RootKernelError {
    /// None at all.
    #[error(
        "there is no kernel in it: neither /boot/vmlinuz-VERSION nor /lib/modules/VERSION/vmlinuz; install one there (Debian: linux-image-amd64)"
    )]
    None,
    /// Not the one that was asked for.
    #[error("it has no kernel {wanted}; there is {there}")]
    NotThere {
        /// What was asked for.
        wanted: String,
        /// The releases of those in it.
        there: String,
    },
    /// Something else has the name of one.
    #[error("`{path}`: {source}")]
    NotKernel {
        /// Which file.
        path: String,
        /// What is wrong.
        source: KernelError,
    },
    /// A kernel alone.
    #[error(
        "its kernel `{path}` is {release}, and /lib/modules/{release} is not there{}: install the modules of that kernel, or choose another with --kernel-version",
        if others.is_empty() { String::new() } else { format!(", only {others}") }
    )]
    NoModules {
        /// The kernel.
        path: String,
        /// Its release.
        release: String,
        /// Releases of which there are modules.
        others: String,
    },
    /// It can't be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// The kernel to boot: `wanted`, or the one with the highest version.
pub fn find(root: &Tree, wanted: Option<&str>) -> Result<Found, RootKernelError> {
    let mut kernels = Vec::new();
    for path in candidates(root)? {
        let mut head = Vec::new();
        let mut reader = root.read(&path)?;
        let read = reader.by_ref().take(kernel::HEAD as u64).read_to_end(&mut head);
        read.map_err(|source| TreeError::Read { path: path.clone(), source })?;
        kernels.push((release(&path, kernel::identify(&head).ok().as_ref()), path, head));
    }
    kernels.sort_by(|(a, ..), (b, ..)| order(a, b));
    let there = || list(kernels.iter().map(|(release, ..)| release.as_str()));
    let chosen = match wanted {
        Some(wanted) => kernels
            .iter()
            .find(|(release, ..)| release == wanted)
            .ok_or_else(|| RootKernelError::NotThere { wanted: wanted.to_owned(), there: there() })?,
        None => kernels.last().ok_or(RootKernelError::None)?,
    };
    let (release, path, head) = chosen;
    let kernel =
        kernel::identify(head).map_err(|source| RootKernelError::NotKernel { path: path.clone(), source })?;
    let modules = format!("lib/modules/{release}");
    if !root.lookup(&modules).is_ok_and(|node| node.is_dir()) {
        let others = list(names(root, "lib/modules")?.iter().map(String::as_str));
        return Err(RootKernelError::NoModules { path: path.clone(), release: release.clone(), others });
    }
    let mut config = None;
    for path in [format!("boot/config-{release}"), format!("{modules}/config")] {
        if config.is_none() && root.lookup(&path).is_ok_and(|node| node.is_file()) {
            config = Some(String::from_utf8_lossy(&root.read_all(&path, MAX_CONFIG)?).into_owned());
        }
    }
    Ok(Found { path: path.clone(), release: release.clone(), kernel, config })
}

/// Files that have the name of a kernel.
fn candidates(root: &Tree) -> Result<Vec<String>, TreeError> {
    let mut out = Vec::new();
    for name in names(root, "boot")? {
        if ["vmlinuz", "vmlinux", "Image", "kernel"].iter().any(|start| name.starts_with(start)) {
            out.push(format!("boot/{name}"));
        }
    }
    for release in names(root, "lib/modules")? {
        out.push(format!("lib/modules/{release}/vmlinuz"));
    }
    // Links among them lead to others of them.
    out.retain(|path| {
        let real = root.resolve(path).ok().and_then(|real| root.get(&real));
        let is_link = root.resolve(path.rsplit_once('/').map_or("", |(dir, _)| dir)).is_ok_and(|dir| {
            let name = path.rsplit('/').next().unwrap_or_default();
            root.read_link([&dir[..], b"/", name.as_bytes()].concat()).is_some()
        });
        !is_link && real.is_some_and(|node| matches!(node.kind, Kind::File { .. }))
    });
    Ok(out)
}

/// The names in a folder, links on the way followed; none where it isn't there.
fn names(root: &Tree, dir: &str) -> Result<Vec<String>, TreeError> {
    match root.resolve(dir) {
        Ok(dir) => {
            let names = root.children(dir).into_iter();
            Ok(names.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect())
        }
        Err(TreeError::Missing(_)) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// By the header where that tells, else by the name.
fn release(path: &str, kernel: Option<&Kernel>) -> String {
    if let Some(release) = kernel.and_then(Kernel::release) {
        return release.to_owned();
    }
    let mut parts = path.rsplit('/');
    let (file, dir) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match file.split_once('-') {
        Some((_, release)) => release.to_owned(),
        None => dir.to_owned(),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Versions in the order in which they came out: numbers as numbers, all else as text.
fn order(a: &str, b: &str) -> Ordering {
    let key = |text: &str| -> Vec<(u64, String)> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let words = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(words);
            let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
            let (number, tail) = tail.split_at(digits);
            parts.push((number.parse().unwrap_or(0), word.to_owned()));
            rest = tail;
        }
        parts
    };
    let (a, b) = (key(a), key(b));
    let pairs = a.iter().zip(&b);
    let differ = pairs.map(|((m, v), (n, w))| v.cmp(w).then(m.cmp(n))).find(|o| o.is_ne());
    differ.unwrap_or(a.len().cmp(&b.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::image::source::Meta;

    /// The head of a bzImage that says which release it is.
    fn bz_image(release: &str) -> Vec<u8> {
        let mut k = vec![0; 0x8000];
        k.splice(0x1fe..0x200, [0x55, 0xaa]);
        k.splice(0x202..0x208, *b"HdrS\x0f\x02");
        k.splice(0x20e..0x210, 0x3000u16.to_le_bytes());
        k.splice(0x236..0x237, [1]);
        let text = format!("{release} (builder) #1\0").into_bytes();
        k.splice(0x3200..0x3200 + text.len(), text);
        k
    }

    fn root(kernels: &[(&str, &[u8])], modules: &[&str]) -> Tree {
        let mut root = Tree::default();
        root.insert_symlink("lib", Meta::root(0o777), "usr/lib").unwrap();
        kernels
            .iter()
            .for_each(|(path, bytes)| root.insert_file(path, Meta::root(0o644), bytes.to_vec()).unwrap());
        modules
            .iter()
            .for_each(|v| root.insert_dir(format!("usr/lib/modules/{v}"), Meta::root(0o755)).unwrap());
        root
    }

    fn said(root: &Tree, wanted: Option<&str>) -> String {
        find(root, wanted).unwrap_err().to_string()
    }

    #[test]
    fn the_newest_is_taken_or_the_one_that_is_asked_for() {
        let (old, new) = (bz_image("6.1.0-9-amd64"), bz_image("6.1.0-48-amd64"));
        let kernels = [("boot/vmlinuz-6.1.0-9-amd64", &old[..]), ("boot/vmlinuz-6.1.0-48-amd64", &new[..])];
        let mut root = root(&kernels, &["6.1.0-9-amd64", "6.1.0-48-amd64"]);
        root.insert_file("boot/config-6.1.0-48-amd64", Meta::root(0o644), &b"CONFIG_RD_XZ=y\n"[..]).unwrap();
        root.insert_symlink("boot/vmlinuz", Meta::root(0o777), "vmlinuz-6.1.0-9-amd64").unwrap();
        let found = find(&root, None).unwrap();
        assert_eq!(
            (found.release.as_str(), found.config.as_deref()),
            ("6.1.0-48-amd64", Some("CONFIG_RD_XZ=y\n"))
        );
        assert_eq!(find(&root, Some("6.1.0-9-amd64")).unwrap().path, "boot/vmlinuz-6.1.0-9-amd64");
        assert_eq!(
            said(&root, Some("5.10")),
            "it has no kernel 5.10; there is 6.1.0-9-amd64, 6.1.0-48-amd64"
        );
    }

    #[test]
    fn the_header_counts_where_the_name_is_another_and_fedoras_place_is_known() {
        let alpine = root(&[("boot/vmlinuz-lts", &bz_image("6.6.1-0-lts"))], &["6.6.1-0-lts"]);
        assert_eq!(find(&alpine, None).unwrap().release, "6.6.1-0-lts");
        let fedora = root(&[("usr/lib/modules/6.9.7-200.fc40/vmlinuz", &bz_image("6.9.7-200.fc40"))], &[]);
        assert_eq!(find(&fedora, None).unwrap().release, "6.9.7-200.fc40");
        let mut arm = vec![0; 64];
        arm.splice(0x38..0x3c, *b"ARM\x64");
        let arm = root(&[("boot/vmlinuz-6.1.0-9-arm64", &arm)], &["6.1.0-9-arm64"]);
        assert_eq!(find(&arm, None).unwrap().release, "6.1.0-9-arm64");
    }

    #[test]
    fn a_kernel_that_is_none_or_lacks_its_modules_is_named() {
        assert!(said(&root(&[], &[]), None).contains("no kernel in it"));
        let alone = root(&[("boot/vmlinuz-6.1", &bz_image("6.1"))], &["6.0"]);
        assert!(
            said(&alone, None)
                .contains("`boot/vmlinuz-6.1` is 6.1, and /lib/modules/6.1 is not there, only 6.0")
        );
        let packed = root(&[("boot/vmlinuz-6.1", b"\x1f\x8b\x08")], &["6.1"]);
        assert!(said(&packed, None).contains("gzip data"));
    }

    #[test]
    fn versions_are_in_the_order_in_which_they_came_out() {
        let sorted = ["5.10", "6.1.0-9-amd64", "6.1.0-48-amd64", "6.1.0-48-amd64-x", "6.10", "6.10.1"];
        for pair in sorted.windows(2) {
            assert_eq!(order(pair.first().unwrap(), pair.last().unwrap()), Ordering::Less, "{pair:?}");
        }
        assert_eq!(order("6.1", "6.1"), Ordering::Equal);
    }
}
