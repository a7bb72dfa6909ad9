//! Kernel modules by alias: which files to load for a device, in which order. The files are the
//! image's own (`/lib/modules/<release>`, with depmod's text indexes).

use std::collections::{BTreeMap, BTreeSet};

/// depmod's indexes.
#[derive(Debug, Default)]
pub struct Index {
    /// Module name to its file and the names it needs, as in modules.dep.
    files: BTreeMap<String, (String, Vec<String>)>,
    /// Alias pattern and module name.
    aliases: Vec<(String, String)>,
}

impl Index {
    /// From the text of `modules.dep` and `modules.alias`. Lines that make no sense are passed over.
    pub fn parse(dep: &str, alias: &str) -> Index {
        let files = dep.lines().filter_map(|line| {
            let (file, needs) = line.split_once(':')?;
            let needs = needs.split_whitespace().map(module_name).collect();
            Some((module_name(file), (file.trim().to_owned(), needs)))
        });
        let aliases = alias.lines().filter_map(|line| {
            let mut words = line.strip_prefix("alias ")?.split_whitespace();
            Some((words.next()?.to_owned(), module_name(words.next()?)))
        });
        Index { files: files.collect(), aliases: aliases.collect() }
    }

    /// Modules whose alias fits a device (`pci:v00001AF4…`) or that a name means.
    pub fn matching(&self, alias: &str) -> Vec<String> {
        let mut names: BTreeSet<String> = self
            .aliases
            .iter()
            .filter(|(pattern, _)| fits(pattern.as_bytes(), alias.as_bytes()))
            .map(|(_, name)| name.clone())
            .collect();
        if self.files.contains_key(&module_name(alias)) {
            names.insert(module_name(alias));
        }
        names.into_iter().collect()
    }

    /// The file of a module, relative to the modules' folder.
    pub fn file(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(|(file, _)| file.as_str())
    }

    /// Files to load for `name`, needed ones first, itself last. Cycles, which depmod never writes,
    /// end.
    pub fn load_order(&self, name: &str) -> Vec<&str> {
        let mut order = Vec::new();
        self.visit(&module_name(name), &mut BTreeSet::new(), &mut order);
        order
    }

    fn visit<'a>(&'a self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<&'a str>) {
        let Some((file, needs)) = self.files.get(name) else { return };
        if !seen.insert(name.to_owned()) {
            return;
        }
        // modules.dep lists all needed modules, the most basic last.
        needs.iter().rev().for_each(|need| self.visit(need, seen, order));
        order.push(file);
    }
}

/// `kernel/drivers/net/virtio-net.ko.xz` is module `virtio_net`.
pub fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// Devices whose drivers a boot may need: NICs and what they hang on. A sound card's driver only costs
/// time and may hang.
pub fn is_needed_to_boot(file: &str) -> bool {
    const PARTS: &[&str] = &[
        "drivers/net/",
        "drivers/virtio/",
        "drivers/hv/",
        "drivers/xen/",
        "drivers/usb/host/",
        "drivers/usb/core/",
        "drivers/usb/common/",
        "drivers/pci/",
        "drivers/ptp/",
        "drivers/bus/",
        "drivers/phy/",
        "drivers/thunderbolt/",
    ];
    let file = file.strip_prefix("kernel/").unwrap_or(file);
    PARTS.iter().any(|part| file.starts_with(part)) && !file.starts_with("drivers/net/wireless/")
}

/// Drivers of disks and of what they hang on.
pub fn is_of_a_disk(file: &str) -> bool {
    const PARTS: &[&str] = &[
        "drivers/nvme/host/",
        "drivers/ata/",
        "drivers/scsi/",
        "drivers/message/fusion/",
        "drivers/block/virtio_blk",
        "drivers/virtio/",
        "drivers/pci/",
    ];
    let file = file.strip_prefix("kernel/").unwrap_or(file);
    PARTS.iter().any(|part| file.starts_with(part))
}

/// Shell pattern as depmod writes it: `*`, `?` and `[…]`.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on after a mismatch: behind the latest star, one byte further in the text.
    let (mut p, mut t) = (pattern, text);
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match (p.split_first(), t.split_first()) {
            (None, None) => return true,
            (Some((b'*', rest)), _) => {
                star = Some((rest, t));
                Some((rest, t))
            }
            (Some((b'?', p_rest)), Some((_, t_rest))) => Some((p_rest, t_rest)),
            (Some((b'[', p_rest)), Some((c, t_rest))) => {
                let end = p_rest.iter().position(|b| *b == b']');
                let set = end.and_then(|end| p_rest.split_at_checked(end));
                set.filter(|(set, _)| in_set(set, *c)).and_then(|(_, rest)| Some((rest.get(1..)?, t_rest)))
            }
            (Some((a, p_rest)), Some((b, t_rest))) if a == b => Some((p_rest, t_rest)),
            _ => None,
        };
        (p, t) = match (step, star) {
            (Some(next), _) => next,
            (None, Some((after_star, from))) => match from.split_first() {
                Some((_, rest)) => {
                    star = Some((after_star, rest));
                    (after_star, rest)
                }
                None => return false,
            },
            (None, None) => return false,
        };
    }
}

fn in_set(set: &[u8], c: u8) -> bool {
    let mut rest = set;
    while let Some((first, tail)) = rest.split_first() {
        if let [b'-', last, after @ ..] = tail {
            if (*first..=*last).contains(&c) {
                return true;
            }
            rest = after;
        } else {
            if *first == c {
                return true;
            }
            rest = tail;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko\n\
        kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
        kernel/net/core/failover.ko:\n\
        kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n\
        kernel/drivers/md/dm-mod.ko.xz:\n\
        kernel/a.ko: kernel/b.ko\n\
        kernel/b.ko: kernel/a.ko\n";
    const ALIAS: &str = "# Aliases extracted from modules themselves.\n\
        alias virtio:d00000001v* virtio_net\n\
        alias pci:v00008086d00001533sv*sd*bc*sc*i* igb\n\
        alias crypto-sha256 sha256_ssse3\n\
        alias usb:v05ACp*d*dc*dsc*dp*ic[0-24]*isc?ip*in* some\n";

    #[test]
    fn finds_modules_by_alias_and_by_name() {
        let index = Index::parse(DEP, ALIAS);
        assert_eq!(index.matching("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(index.matching("virtio:d00000002v00001AF4"), [""; 0]);
        assert_eq!(index.matching("pci:v00008086d00001533sv0000103Csd00000003bc02sc00i00"), ["igb"]);
        assert_eq!(index.matching("crypto-sha256"), ["sha256_ssse3"]);
        assert_eq!(index.matching("dm-verity"), ["dm_verity"]);
        assert_eq!(index.matching("usb:v05ACp1d2dc3dsc4dp5ic1xiscYip1in2"), ["some"]);
        assert_eq!(index.matching("usb:v05ACp1d2dc3dsc4dp5ic4xiscYip1in2"), ["some"]);
        assert_eq!(index.matching("usb:v05ACp1d2dc3dsc4dp5ic3xiscYip1in2"), [""; 0]);
    }

    #[test]
    fn needed_modules_come_first() {
        let index = Index::parse(DEP, ALIAS);
        assert_eq!(
            index.load_order("virtio_net"),
            [
                "kernel/net/core/failover.ko",
                "kernel/drivers/net/net_failover.ko",
                "kernel/drivers/net/virtio_net.ko"
            ]
        );
        assert_eq!(index.load_order("dm-verity").len(), 2);
        assert_eq!(index.load_order("a").len(), 2);
        assert!(index.load_order("nothing").is_empty());
    }

    #[test]
    fn only_network_drivers_are_loaded_for_devices() {
        assert!(is_needed_to_boot("kernel/drivers/net/ethernet/intel/igb/igb.ko"));
        assert!(is_needed_to_boot("kernel/drivers/virtio/virtio_pci.ko.xz"));
        assert!(!is_needed_to_boot("kernel/drivers/net/wireless/ath/ath.ko"));
        assert!(!is_needed_to_boot("kernel/sound/pci/snd-hda-intel.ko"));
        assert!(!is_needed_to_boot("kernel/drivers/gpu/drm/bochs.ko"));
        assert!(
            is_of_a_disk("kernel/drivers/block/virtio_blk.ko")
                && !is_needed_to_boot("drivers/nvme/host/nvme.ko")
        );
        assert!(!is_of_a_disk("kernel/drivers/block/drbd/drbd.ko"));
    }

    #[test]
    fn hostile_patterns_end() {
        let stars = "*a".repeat(60);
        assert!(!fits(stars.as_bytes(), "a".repeat(50).as_bytes()));
        assert!(!fits(b"[a", b"a") && !fits(b"", b"a") && fits(b"**", b""));
    }
}
