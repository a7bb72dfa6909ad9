//! Firmware that drivers ask for. A module says which files it may load (`modinfo -F firmware`); which of
//! them a NIC really needs, it tells only once it runs.

use super::source::{Kind, Tree, TreeError};
use std::collections::BTreeMap;

/// Where a kernel looks, in its order (kernel `Documentation/driver-api/firmware/fw_search_path.rst`);
/// `@` is its release.
const FOLDERS: [&str; 4] =
    ["lib/firmware/updates/@", "lib/firmware/updates", "lib/firmware/@", "lib/firmware"];
/// A kernel unpacks these itself, where it is configured to.
const PACKED: [&str; 3] = ["", ".zst", ".xz"];
/// Bytes of one file, and of all: far above what every NIC's firmware takes together.
const MAX_FILE: u64 = 32 << 20;
const MAX_ALL: u64 = 256 << 20;

/// What was found of the firmware that some modules may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// The files, by their path in the root.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Modules that name firmware of which the root has none.
    pub lacking: Vec<String>,
}

/// The files that a module names, by the section `.modinfo` in it: text after text, each ended by a zero byte.
pub fn names_in(module: &[u8]) -> Vec<String> {
    let named = |text: &[u8]| {
        let name = String::from_utf8(text.strip_prefix(b"firmware=")?.to_vec()).ok()?;
        let parts = || name.split('/');
        let is_plain = !name.contains('*') && parts().all(|part| !matches!(part, "" | "." | ".."));
        is_plain.then_some(name)
    };
    let mut names: Vec<String> = module.split(|b| *b == 0).filter_map(named).collect();
    names.sort();
    names.dedup();
    names
}

impl Firmware {
    /// Looks in `root` for the files that the module `name` names.
    pub fn add(&mut self, root: &Tree, release: &str, name: &str, module: &[u8]) -> Result<(), TreeError> {
        let names = names_in(module);
        let mut found = names.is_empty();
        for file in &names {
            found |= self.find(root, release, file)?;
        }
        if !found {
            self.lacking.push(name.to_owned());
        }
        Ok(())
    }

    fn find(&mut self, root: &Tree, release: &str, file: &str) -> Result<bool, TreeError> {
        for folder in FOLDERS {
            for packed in PACKED {
                let path = format!("{}/{file}{packed}", folder.replace('@', release));
                let is_file = root.lookup(&path).is_ok_and(|node| matches!(node.kind, Kind::File { .. }));
                let all: u64 = self.files.values().map(|bytes| bytes.len() as u64).sum();
                if is_file {
                    let left = MAX_ALL.saturating_sub(all).min(MAX_FILE);
                    let bytes = root.read_all(&path, left)?;
                    self.files.insert(path, bytes);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::image::source::Meta;

    const MODULE: &[u8] =
        b"\x7fELF..\0license=GPL\0firmware=tigon/tg3.bin\0firmware=tigon/tg3_tso.bin\0firmware=../../etc/shadow\0firmware=\0parm=firmware=x:y\0";

    #[test]
    fn a_module_names_its_files() {
        assert_eq!(names_in(MODULE), ["tigon/tg3.bin", "tigon/tg3_tso.bin"]);
        assert!(names_in(b"\x7fELF").is_empty());
    }

    #[test]
    fn what_the_root_has_is_taken_from_where_the_kernel_looks_and_what_it_lacks_is_told() {
        let mut root = Tree::default();
        let mut put =
            |path: &str, bytes: &[u8]| root.insert_file(path, Meta::root(0o644), bytes.to_vec()).unwrap();
        put("usr/lib/firmware/tigon/tg3.bin", b"old");
        put("usr/lib/firmware/6.1/tigon/tg3.bin.xz", b"packed");
        root.insert_symlink("lib", Meta::root(0o777), "usr/lib").unwrap();
        let mut found = Firmware::default();
        found.add(&root, "6.1", "tg3", MODULE).unwrap();
        found.add(&root, "6.1", "bnx2", b"\0firmware=bnx2/a.fw\0").unwrap();
        found.add(&root, "6.1", "e1000", b"\0license=GPL\0").unwrap();
        let files: Vec<(&str, &[u8])> = found.files.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        assert_eq!(files, [("lib/firmware/6.1/tigon/tg3.bin.xz", &b"packed"[..])]);
        assert_eq!(found.lacking, ["bnx2"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(module in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            names_in(&module);
        }
    }
}
