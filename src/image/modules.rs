//! Kernel modules: which ones a network boot needs, and what they need in turn, by the files that
//! `depmod` writes. They are read from a folder of this machine or from a root that isn't unpacked.

use super::source::{Tree, TreeError};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of one module, unpacked: the largest that kernels have take a tenth.
const MAX_MODULE: u64 = 256 << 20;
/// Bytes of one of depmod's lists.
const MAX_LIST: u64 = 64 << 20;

/// Without these no image can be mounted; built in or as modules.
pub const REQUIRED: &[&str] = &["squashfs", "overlay", "loop", "dm_mod", "dm_verity"];

/// Taken where the kernel has them: what the above use by name at run time, and what a boot may need
/// besides a NIC.
pub const HELPFUL: &[&str] = &[
    "dm_bufio",
    "nbd",
    "sha256_ssse3",
    "sha256_arm64",
    "sha2_ce",
    "sha256_generic",
    "crc32c_generic",
    "crc32c_intel",
    "crc32_generic",
    "crc32_pclmul",
    "af_packet",
    "8021q",
    "virtio_rng",
    "virtio_blk",
    "virtio_pci",
    "virtio_mmio",
];

/// NICs of virtual machines.
pub const VIRTUAL_NICS: &[&str] = &[
    "virtio_net",
    "e1000",
    "e1000e",
    "vmxnet3",
    "hv_netvsc",
    "pci_hyperv",
    "xen_netfront",
    "ena",
    "gve",
    "8139cp",
    "8139too",
    "ne2k_pci",
    "pcnet32",
];

/// NICs of servers, and the PHYs that they ask for by name.
pub const SERVER_NICS: &[&str] = &[
    "igb",
    "igbvf",
    "igc",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "iavf",
    "ice",
    "fm10k",
    "bnxt_en",
    "bnx2",
    "bnx2x",
    "tg3",
    "mlx4_core",
    "mlx4_en",
    "mlx5_core",
    "r8169",
    "be2net",
    "cxgb4",
    "enic",
    "qede",
    "sfc",
    "nfp",
    "ionic",
    "atlantic",
    "alx",
    "atl1c",
    "sky2",
    "forcedeth",
    "hinic",
    "hns3",
    "hclge",
    "amd_xgbe",
    "mvneta",
    "mvpp2",
    "thunder_xcv",
    "nicvf",
    "nicpf",
    "fsl_enetc",
    "realtek",
    "broadcom",
    "marvell",
];

/// Disks of servers and of virtual machines.
pub const STORAGE: &[&str] = &[
    "sd_mod",
    "nvme",
    "ahci",
    "virtio_scsi",
    "hv_storvsc",
    "xen_blkfront",
    "vmw_pvscsi",
    "mpt3sas",
    "megaraid_sas",
    "smartpqi",
    "hpsa",
    "aacraid",
];

/// Where modules are.
#[derive(Clone, Debug)]
pub enum ModulesFrom {
    /// A folder `lib/modules/VERSION` of this machine, after depmod.
    Folder(PathBuf),
    /// A root that has `lib/modules/VERSION`.
    Root(Arc<Tree>, String),
}

/// Why modules can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The file system said no.
    #[error("can't read {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root said no.
    #[error(transparent)]
    Root(#[from] TreeError),
    /// Not a folder of modules.
    #[error("{0} has no modules.dep: give a folder lib/modules/VERSION, and run `depmod` on it first")]
    NoDep(PathBuf),
    /// A module that every boot needs is neither there nor built in.
    #[error(
        "the kernel's modules in {dir} lack {name}, without which no root can be mounted: choose another kernel"
    )]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The module.
        name: String,
    },
    /// modules.dep names a file that isn't there, or one outside the folder.
    #[error("modules.dep in {dir} names {path}, which is not in it: run `depmod` again")]
    BadPath {
        /// The folder.
        dir: PathBuf,
        /// What it names.
        path: String,
    },
    /// A compressed module that can't be unpacked here.
    #[error("can't unpack {path}: {why}")]
    Unpack {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A folder `lib/modules/VERSION` as depmod describes it.
#[derive(Debug)]
pub struct Modules {
    /// How messages name it, and where it is unless it is in a root.
    dir: PathBuf,
    root: Option<Arc<Tree>>,
    version: String,
    /// Name to path and the paths that it needs, all relative to `dir`.
    dep: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
    /// Name to the names that are loaded with it (`softdep`).
    soft: BTreeMap<String, Vec<String>>,
}

/// A module's name by its path: `kernel/net/8021q/8021q.ko.xz` is `8021q`, and `-` is `_`.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

impl Modules {
    /// Reads the lists; the last part of the folder's path is the kernel version.
    pub fn open(from: &ModulesFrom) -> Result<Modules, ModulesError> {
        let (dir, root) = match from {
            ModulesFrom::Folder(dir) => {
                let real = dir.canonicalize();
                (real.map_err(|source| ModulesError::Io { path: dir.into(), source })?, None)
            }
            ModulesFrom::Root(tree, version) => {
                (Path::new("/lib/modules").join(version), Some(Arc::clone(tree)))
            }
        };
        let version = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let (dep, builtin, soft) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut modules = Modules { dir, root, version, dep, builtin, soft };
        let dep = modules.list("modules.dep")?.ok_or_else(|| ModulesError::NoDep(modules.dir.clone()))?;
        for line in dep.lines() {
            if let Some((path, needs)) = line.split_once(':') {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                modules.dep.insert(name_of(path), (path.to_owned(), needs));
            }
        }
        let builtin = modules.list("modules.builtin")?.unwrap_or_default();
        modules.builtin = builtin.lines().map(name_of).collect();
        for line in modules.list("modules.softdep")?.unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            if let (Some("softdep"), Some(name)) = (words.next(), words.next()) {
                let names = words.filter(|w| !matches!(*w, "pre:" | "post:")).map(name_of);
                modules.soft.entry(name_of(name)).or_default().extend(names);
            }
        }
        Ok(modules)
    }

    /// The kernel version: what `uname -r` says on that kernel.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// One of depmod's lists as text; `None` where depmod made no such one.
    pub fn list(&self, name: &str) -> Result<Option<String>, ModulesError> {
        let Some(bytes) = self.bytes(name, MAX_LIST)? else { return Ok(None) };
        let bad = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        String::from_utf8(bytes).map(Some).map_err(|e| self.io(name, bad(e)))
    }

    fn io(&self, name: &str, source: io::Error) -> ModulesError {
        ModulesError::Io { path: self.dir.join(name), source }
    }

    /// The bytes of a file in the folder; `None` where there is no such one.
    fn bytes(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, ModulesError> {
        let path = self.dir.join(name);
        if let Some(root) = &self.root {
            let path = path.as_os_str().as_encoded_bytes();
            return match root.read_all(path, limit) {
                Err(TreeError::Missing(_)) => Ok(None),
                read => Ok(Some(read?)),
            };
        }
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io(name, e)),
        }
    }

    /// Paths of the modules with these names and of all that they need, hard and soft. Names that the
    /// kernel lacks or has built in are left out.
    pub fn closure<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        let mut todo: Vec<String> = names.into_iter().map(name_of).collect();
        let (mut seen, mut out) = (BTreeSet::new(), BTreeSet::new());
        while let Some(name) = todo.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            if let Some((path, needs)) = self.dep.get(&name) {
                out.insert(path.clone());
                todo.extend(needs.iter().map(|p| name_of(p)));
                todo.extend(self.soft.get(&name).into_iter().flatten().cloned());
            }
        }
        out
    }

    /// Fails where one of `names` is neither a module nor built in.
    pub fn require(&self, names: &[&str]) -> Result<(), ModulesError> {
        match names.iter().find(|n| !self.dep.contains_key(**n) && !self.builtin.contains(**n)) {
            None => Ok(()),
            Some(name) => Err(ModulesError::Missing { dir: self.dir.clone(), name: (*name).to_owned() }),
        }
    }

    /// The lines of modules.dep for `paths`, every path ending in `.ko`.
    pub fn reduced_dep(&self, paths: &BTreeSet<String>) -> String {
        let lines = self.dep.values().filter(|(path, _)| paths.contains(path));
        let mut text: Vec<String> = lines
            .map(|(path, needs)| {
                let needs: String = needs.iter().map(|n| format!(" {}", plain_path(n))).collect();
                format!("{}:{needs}\n", plain_path(path))
            })
            .collect();
        text.sort();
        text.concat()
    }

    /// The lines of modules.alias or modules.softdep that are about the modules of `paths`.
    pub fn reduced_list(&self, list: &str, paths: &BTreeSet<String>) -> Result<String, ModulesError> {
        let names: BTreeSet<String> = paths.iter().map(|p| name_of(p)).collect();
        let about = |line: &&str| {
            let mut words = line.split_whitespace();
            let name = if line.starts_with("alias") { words.next_back() } else { words.nth(1) };
            name.is_some_and(|n| names.contains(&name_of(n)))
        };
        let text = self.list(list)?.unwrap_or_default();
        Ok(text.lines().filter(about).flat_map(|line| [line, "\n"]).collect())
    }

    /// A module's bytes, unpacked.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, ModulesError> {
        let inside = !path.starts_with('/') && !path.split('/').any(|part| part == "..");
        let bytes = if inside { self.bytes(path, MAX_MODULE)? } else { None };
        let bytes =
            bytes.ok_or_else(|| ModulesError::BadPath { dir: self.dir.clone(), path: path.to_owned() })?;
        let unpacked = match path.rsplit('.').next() {
            Some("gz") => all(flate2::read::MultiGzDecoder::new(bytes.as_slice())),
            Some("xz") => all(liblzma::read::XzDecoder::new_multi_decoder(bytes.as_slice())),
            Some("zst") => zstd::stream::read::Decoder::new(bytes.as_slice()).and_then(all),
            _ => return Ok(bytes),
        };
        unpacked.map_err(|e| ModulesError::Unpack { path: self.dir.join(path), why: e.to_string() })
    }
}

fn all(from: impl Read) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if from.take(MAX_MODULE + 1).read_to_end(&mut out)? as u64 > MAX_MODULE {
        return Err(io::Error::other(format!("it has more than {MAX_MODULE} bytes, which no module has")));
    }
    Ok(out)
}

/// The path without an ending for compression: the initramfs has every module unpacked.
pub fn plain_path(path: &str) -> &str {
    [".gz", ".xz", ".zst"].iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::testing::TempDir;

    fn tree() -> (TempDir, Modules) {
        let dir = TempDir::new();
        let m = dir.path().join("6.1.0-test");
        fs::create_dir_all(m.join("kernel/net")).unwrap();
        let dep = "kernel/net/virtio_net.ko.gz: kernel/net/failover.ko\nkernel/net/failover.ko:\nkernel/fs/squashfs.ko:\nkernel/net/wifi.ko: kernel/net/failover.ko\nkernel/net/phy-a.ko:\nkernel/net/evil.ko: ../../../etc/passwd\n";
        fs::write(m.join("modules.dep"), dep).unwrap();
        fs::write(m.join("modules.builtin"), "kernel/fs/overlayfs/overlay.ko\n").unwrap();
        fs::write(m.join("modules.softdep"), "# x\nsoftdep virtio_net pre: phy-a post: nothing\n").unwrap();
        fs::write(m.join("modules.alias"), "# x\nalias virtio:d00000001v* virtio_net\nalias pci:w* wifi\n")
            .unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gz, b"ELF").unwrap();
        fs::write(m.join("kernel/net/virtio_net.ko.gz"), gz.finish().unwrap()).unwrap();
        let modules = Modules::open(&ModulesFrom::Folder(m)).unwrap();
        (dir, modules)
    }

    #[test]
    fn takes_what_a_module_needs_hard_and_soft_and_no_more() {
        let (_dir, m) = tree();
        assert_eq!(m.version(), "6.1.0-test");
        let paths = m.closure(["virtio-net", "overlay", "not_there"]);
        let names: Vec<String> = paths.iter().map(|p| name_of(p)).collect();
        assert_eq!(names, ["failover", "phy_a", "virtio_net"]);
        assert_eq!(
            m.reduced_dep(&paths),
            "kernel/net/failover.ko:\nkernel/net/phy-a.ko:\nkernel/net/virtio_net.ko: kernel/net/failover.ko\n"
        );
        assert_eq!(m.reduced_list("modules.alias", &paths).unwrap(), "alias virtio:d00000001v* virtio_net\n");
        assert_eq!(
            m.reduced_list("modules.softdep", &paths).unwrap(),
            "softdep virtio_net pre: phy-a post: nothing\n"
        );
    }

    #[test]
    fn a_required_module_may_be_built_in_but_not_missing() {
        let (_dir, m) = tree();
        assert!(m.require(&["squashfs", "overlay"]).is_ok());
        assert!(m.require(&["dm_verity"]).unwrap_err().to_string().contains("dm_verity"));
    }

    #[test]
    fn modules_in_a_root_are_read_like_those_of_a_folder() {
        let (dir, m) = tree();
        let packed = |tool: &str| {
            let file = dir.path().join("module");
            fs::write(&file, "ELF").unwrap();
            std::process::Command::new(tool).arg("-c").arg(&file).output().unwrap().stdout
        };
        let m = m.dir.join("kernel/net");
        fs::write(m.join("failover.ko.xz"), packed("xz")).unwrap();
        fs::write(m.join("phy-a.ko.zst"), packed("zstd")).unwrap();
        let root = dir.path().join("root/usr/lib/modules");
        fs::create_dir_all(&root).unwrap();
        fs::rename(dir.path().join("6.1.0-test"), root.join("6.1.0-test")).unwrap();
        std::os::unix::fs::symlink("usr/lib", dir.path().join("root/lib")).unwrap();
        let options = crate::image::source::Options::default();
        let silent = crate::image::progress::Silent;
        let root = crate::image::source::open(&dir.path().join("root"), &options, &silent).unwrap();
        let m = Modules::open(&ModulesFrom::Root(Arc::new(root), "6.1.0-test".into())).unwrap();
        assert_eq!((m.version(), m.closure(["virtio_net"]).len()), ("6.1.0-test", 3));
        for path in ["virtio_net.ko.gz", "failover.ko.xz", "phy-a.ko.zst"] {
            assert_eq!(m.read(&format!("kernel/net/{path}")).unwrap(), b"ELF");
        }
        assert!(matches!(m.read("kernel/net/wifi.ko"), Err(ModulesError::BadPath { .. })));
        assert!(matches!(m.read("../../../etc/passwd"), Err(ModulesError::BadPath { .. })));
    }

    #[test]
    fn unpacks_and_stays_in_its_folder() {
        let (_dir, m) = tree();
        assert_eq!(m.read("kernel/net/virtio_net.ko.gz").unwrap(), b"ELF");
        assert!(matches!(m.read("../../../etc/passwd"), Err(ModulesError::BadPath { .. })));
        assert!(matches!(m.read("kernel/net/wifi.ko"), Err(ModulesError::BadPath { .. })));
    }
}
