//! Systems that people boot already, as data: which files each has, the command line that makes its own
//! initramfs fetch its root from here, and what is verified on the machine. None of them has Pristine's
//! `init`: an image of them is foreign.
//!
//! Each command line is checked against the project's own documents or source, named in the table.

#[cfg(test)]
mod tests;

/// One system.
#[derive(Debug, PartialEq, Eq)]
pub struct Preset {
    /// What operators call it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Command line template, see `netboot::cmdline`.
    pub cmdline: &'static str,
    /// Where its files are, the likeliest first.
    pub layouts: &'static [Layout],
    /// What an operator should know.
    pub notes: &'static [&'static str],
    /// What its own initramfs verifies of what it fetches.
    pub verifies: &'static str,
    /// Where the command line and the file names are from.
    pub sources: &'static [&'static str],
}

/// Names of a system's files in one form of its distribution; patterns with `*` and `?` in any part.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// An ISO that has all of it is this system. Others count for `--dir` alone.
    pub iso: bool,
    /// The kernel.
    pub kernel: &'static str,
    /// The initramfs.
    pub initramfs: &'static str,
    /// What the initramfs fetches as its root.
    pub rootfs: Root,
    /// What else must be there, or how the ISO's volume must begin, for an ISO to be this system.
    pub sign: Option<Sign>,
}

/// The root of a [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// The initramfs brings it.
    None,
    /// A file.
    File(&'static str),
    /// The whole ISO; from a folder, a file of this name.
    Iso(&'static str),
}

/// What tells a [`Layout`] from others with the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The volume's name begins so.
    Volume(&'static str),
    /// This file is there.
    File(&'static str),
}

const fn on_iso(kernel: &'static str, initramfs: &'static str, rootfs: Root) -> Layout {
    Layout { iso: true, kernel, initramfs, rootfs, sign: None }
}

const fn in_folder(kernel: &'static str, initramfs: &'static str, rootfs: Root) -> Layout {
    Layout { iso: false, kernel, initramfs, rootfs, sign: None }
}

const NOTHING: &str = "nothing";

/// Every preset, in the order in which an ISO is compared with them.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "ubuntu-casper",
        about: "Ubuntu's live and live-server ISOs",
        // casper takes `url=` only where it ends in `.iso`, fetches all of it and mounts it. cloud-init would
        // take the same word for its own and load the ISO once more: its own word goes first.
        cmdline: "boot=casper netboot=url url={iso_url} ip=dhcp BOOTIF={bootif} cloud-config-url=/dev/null",
        layouts: &[
            Layout {
                iso: true,
                kernel: "casper/vmlinuz*",
                initramfs: "casper/initrd*",
                rootfs: Root::Iso("*.iso"),
                sign: Some(Sign::File("casper/*.squashfs")),
            },
            in_folder("vmlinuz*", "initrd*", Root::Iso("*.iso")),
            in_folder("linux", "initrd", Root::Iso("*.iso")),
        ],
        notes: &[
            "The machine keeps the whole ISO in memory, in a file system that takes at most half of it: 8 GiB for a \
             server ISO, 16 GiB for a desktop one.",
            "`ds=nocloud;s=URL` can't be put on the command line, since iPXE would run what follows the semicolon: put \
             an autoinstall configuration into the ISO.",
        ],
        verifies: NOTHING,
        sources: &[
            "casper(7), scripts/casper: do_urlmount",
            "https://blog.domainmess.org/post/ubuntu_http",
            "https://discourse.ubuntu.com/t/spec-publishing-netboot-artifacts/28256",
        ],
    },
    Preset {
        name: "debian-live",
        about: "Debian's live ISOs, and whatever else has live-boot",
        // live-boot tells by the URL's ending what it fetched. It asks for an address by itself; `ip=dhcp` would be
        // a static address of the interface `dhcp` to it.
        cmdline: "boot=live components fetch={rootfs_url} BOOTIF={bootif}",
        layouts: &[
            on_iso("live/vmlinuz*", "live/initrd*", Root::File("live/filesystem.squashfs")),
            on_iso("live/vmlinuz*", "live/initrd*", Root::File("live/*.squashfs")),
            in_folder("vmlinuz*", "initrd*", Root::File("filesystem.squashfs")),
            in_folder("vmlinuz*", "initrd*", Root::File("*.squashfs")),
        ],
        notes: &["The machine keeps the squashfs in memory, outside of tmpfs: its size and 1 GiB."],
        verifies: NOTHING,
        sources: &[
            "live-boot(7): fetch=; 9990-networking.sh, 9990-netbase.sh: BOOTIF=, ip=",
            "live-boot 1:20230131, components/9990-mount-http.sh: iso, squashfs, tgz, tar by the URL's ending",
        ],
    },
    Preset {
        name: "fedora-coreos",
        about: "Fedora CoreOS and RHEL CoreOS, live",
        cmdline: "coreos.live.rootfs_url={rootfs_url} ignition.firstboot ignition.platform.id=metal rd.neednet=1 ip=dhcp",
        layouts: &[
            on_iso(
                "images/pxeboot/vmlinuz",
                "images/pxeboot/initrd.img",
                Root::File("images/pxeboot/rootfs.img"),
            ),
            in_folder("*-live-kernel*", "*-live-initramfs*", Root::File("*-live-rootfs*")),
        ],
        notes: &[
            "Give an Ignition configuration with --cmdline-extra ignition.config.url=URL; without one nobody can log \
             in but at the console.",
            "The three files are of one build: the initramfs refuses another build's root.",
        ],
        verifies: "the root: its SHA-256 blocks against the list in the initramfs (coreos-livepxe-rootfs.sh)",
        sources: &[
            "https://docs.fedoraproject.org/en-US/fedora-coreos/live-reference/",
            "coreos/fedora-coreos-config, 35coreos-live/coreos-livepxe-rootfs.sh",
        ],
    },
    Preset {
        name: "fedora-live",
        about: "Live ISOs of Fedora, CentOS, Alma and Rocky Linux, openSUSE: dracut's livenet",
        cmdline: "root=live:{rootfs_url} rd.live.image rd.neednet=1 ip=dhcp BOOTIF={bootif}",
        layouts: &[
            on_iso("images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", Root::File("LiveOS/squashfs.img")),
            on_iso("boot/*/loader/linux", "boot/*/loader/initrd", Root::File("LiveOS/squashfs.img")),
            in_folder("vmlinuz*", "initrd*", Root::File("squashfs.img")),
        ],
        notes: &[
            "The initrd needs dracut's modules livenet and network (lsinitrd tells); one without them waits for a disk.",
            "The machine keeps the root in memory.",
        ],
        verifies: NOTHING,
        sources: &["dracut.cmdline(7): root=live:, BOOTIF=", "dracut, 90livenet/livenetroot.sh"],
    },
    Preset {
        name: "flatcar",
        about: "Flatcar Container Linux, from memory",
        cmdline: "flatcar.first_boot=1",
        layouts: &[
            on_iso("flatcar/vmlinuz*", "flatcar/cpio.gz", Root::None),
            in_folder("flatcar_production_pxe.vmlinuz", "flatcar_production_pxe_image.cpio.gz", Root::None),
        ],
        notes: &[
            "Give an Ignition configuration with --cmdline-extra ignition.config.url=URL, or flatcar.autologin for a \
             shell on the console.",
            "The system comes within the initramfs: 2 GiB of memory at least.",
        ],
        verifies: NOTHING,
        sources: &[
            "https://www.flatcar.org/docs/latest/installing/bare-metal/booting-with-ipxe/",
            "flatcar/scripts, build_library/vm_image_util.sh: flatcar/vmlinuz, flatcar/cpio.gz",
        ],
    },
    Preset {
        name: "talos",
        about: "Talos Linux, for machines that keep nothing or install themselves",
        cmdline: "talos.platform=metal console=tty0 init_on_alloc=1 slab_nomerge pti=on consoleblank=0 \
                  nvme_core.io_timeout=4294967295 printk.devkmsg=on",
        layouts: &[
            Layout {
                iso: true,
                kernel: "boot/vmlinuz*",
                initramfs: "boot/initramfs.xz",
                rootfs: Root::None,
                sign: Some(Sign::Volume("TALOS")),
            },
            in_folder("vmlinuz*", "initramfs*", Root::None),
            in_folder("kernel-*", "initramfs*", Root::None),
        ],
        notes: &[
            "It waits in maintenance mode for its configuration, or fetches it: --cmdline-extra \
             talos.config=URL (with {mac} in it, one a machine).",
            "SecureBoot ISOs hold a signed UKI alone, which is another way to boot.",
        ],
        verifies: NOTHING,
        sources: &[
            "https://www.talos.dev/latest/reference/kernel/",
            "siderolabs/talos, pkg/imager/iso: boot/vmlinuz, boot/initramfs.xz, volume TALOS_…",
        ],
    },
    Preset {
        name: "debian-installer",
        about: "Debian's installer for network boot",
        cmdline: "BOOTIF={bootif}",
        layouts: &[
            on_iso("debian-installer/*/linux", "debian-installer/*/initrd.gz", Root::None),
            // mini.iso.
            on_iso("linux", "initrd.gz", Root::None),
        ],
        notes: &[
            "An unattended installation: --cmdline-extra 'auto=true priority=critical url=http://…/preseed.cfg'.",
            "It installs on the machine's disk; point the machine to `local` when it is done.",
        ],
        verifies: "the packages that it installs, by Debian's archive keys within its initramfs",
        sources: &[
            "https://www.debian.org/releases/bookworm/amd64/ch05s03.en.html (boot parameters)",
            "https://www.debian.org/releases/bookworm/amd64/apbs02.en.html (preseeding)",
            "Debian package debian-installer-12-netboot-amd64",
        ],
    },
];

/// Debian's installer as installation media have it: its initramfs looks for packages on the medium.
pub const FROM_MEDIUM: Layout = on_iso("install*/vmlinuz", "install*/initrd.gz", Root::None);

/// The preset of that name.
pub fn named(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The names of all.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|preset| preset.name)
}

impl Layout {
    /// The patterns, in words: what an error lists.
    pub fn patterns(&self) -> Vec<&'static str> {
        let root = match self.rootfs {
            Root::None => None,
            Root::File(pattern) => Some(pattern),
            Root::Iso(pattern) => (!self.iso).then_some(pattern),
        };
        let sign = match self.sign {
            Some(Sign::File(pattern)) => Some(pattern),
            _ => None,
        };
        [self.kernel, self.initramfs].into_iter().chain(root).chain(sign).collect()
    }
}
