//! Is this a Linux kernel that boot loaders start, and for which machine? By the x86 boot header
//! (kernel `Documentation/arch/x86/boot.rst`), the arm64 and RISC-V image headers and the PE header of the
//! EFI stub.

use crate::model::Arch;
use std::fmt;

/// Bytes at the start of a file that [`identify`] wants to see.
pub const HEAD: usize = 128 << 10;

/// How the kernel is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// x86 bzImage.
    BzImage,
    /// Flat Image of arm64 or RISC-V.
    Image,
    /// EFI program that unpacks itself (`vmlinuz.efi`, also LoongArch's `vmlinux.efi`).
    EfiStub,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::BzImage => "bzImage",
            Format::Image => "Image",
            Format::EfiStub => "EFI stub",
        })
    }
}

/// A kernel as its header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it runs on.
    pub arch: Arch,
    /// How it is packed.
    pub format: Format,
    /// Version string, as in `6.1.0-49-amd64 (debian-kernel@…) #1 SMP …`; only a bzImage has it where it
    /// can be read.
    pub version: Option<String>,
}

impl Kernel {
    /// What `uname -r` will say, where the header tells.
    pub fn release(&self) -> Option<&str> {
        self.version.as_deref()?.split_whitespace().next()
    }
}

/// Why a file is no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Something else.
    #[error("it is not a Linux kernel{}", looks_like.map(|l| format!(" but {l}")).unwrap_or_default())]
    NotKernel {
        /// What it is, where that can be told.
        looks_like: Option<&'static str>,
    },
    /// A kernel for a machine that Pristine doesn't boot.
    #[error(
        "it is a kernel for {0}, which Pristine doesn't boot: give one for x86_64, aarch64, riscv64 or loongarch64"
    )]
    OtherArch(String),
}

/// Looks at the first [`HEAD`] bytes of a file.
pub fn identify(head: &[u8]) -> Result<Kernel, KernelError> {
    let at = |from: usize, magic: &[u8]| head.get(from..).is_some_and(|rest| rest.starts_with(magic));
    if at(0x202, b"HdrS") && at(0x1fe, &[0x55, 0xaa]) {
        return bz_image(head);
    }
    let flat = at(0x38, b"ARM\x64").then_some(Arch::Aarch64);
    if let Some(arch) = flat.or(at(0x38, b"RSC\x05").then_some(Arch::Riscv64)) {
        return Ok(Kernel { arch, format: Format::Image, version: None });
    }
    if at(0, b"MZ") {
        // EFI zboot says so; LoongArch's header has its own magic at the arm64 one's place.
        let linux = at(4, b"zimg") || at(0x38, &[0xcd, 0x23, 0x82, 0x81]);
        let arch = pe_arch(head)?;
        return match (linux, has_section(head, b".linux\0\0")) {
            (true, _) => Ok(Kernel { arch, format: Format::EfiStub, version: None }),
            (false, true) => Err(KernelError::NotKernel {
                looks_like: Some(
                    "a unified kernel image; import the kernel and the initramfs that are in it",
                ),
            }),
            (false, false) => Err(KernelError::NotKernel { looks_like: Some("another EFI program") }),
        };
    }
    Err(KernelError::NotKernel { looks_like: guess(head) })
}

fn bz_image(head: &[u8]) -> Result<Kernel, KernelError> {
    let version = u16_at(head, 0x206).unwrap_or(0);
    // XLF_KERNEL_64, since boot protocol 2.12 (Linux 3.8).
    let is_64 = version >= 0x20c && u16_at(head, 0x236).is_some_and(|flags| flags & 1 == 1);
    if !is_64 {
        return Err(KernelError::OtherArch("32-bit x86 (or older than Linux 3.8)".into()));
    }
    let text = u16_at(head, 0x20e).filter(|at| *at != 0).and_then(|at| {
        let text = head.get(usize::from(at) + 0x200..)?.split(|b| *b == 0).next()?;
        let printable = !text.is_empty() && text.len() < 256 && text.iter().all(|b| (32..127).contains(b));
        printable.then(|| String::from_utf8_lossy(text).into_owned())
    });
    Ok(Kernel { arch: Arch::X86_64, format: Format::BzImage, version: text })
}

/// The PE header's machine (Microsoft PE format, "Machine types").
fn pe_arch(head: &[u8]) -> Result<Arch, KernelError> {
    let pe = u16_at(head, 0x3c).map_or(usize::MAX, usize::from);
    if head.get(pe..).is_none_or(|rest| !rest.starts_with(b"PE\0\0")) {
        return Err(KernelError::NotKernel { looks_like: Some("a DOS program") });
    }
    match u16_at(head, pe + 4) {
        Some(0x8664) => Ok(Arch::X86_64),
        Some(0xaa64) => Ok(Arch::Aarch64),
        Some(0x5064) => Ok(Arch::Riscv64),
        Some(0x6264) => Ok(Arch::Loongarch64),
        Some(0x014c) => Err(KernelError::OtherArch("32-bit x86".into())),
        Some(0x01c0 | 0x01c2 | 0x01c4) => Err(KernelError::OtherArch("32-bit ARM".into())),
        other => Err(KernelError::OtherArch(format!("PE machine {:#06x}", other.unwrap_or(0)))),
    }
}

fn has_section(head: &[u8], name: &[u8; 8]) -> bool {
    let pe = u16_at(head, 0x3c).map_or(0, usize::from);
    let count = u16_at(head, pe + 6).unwrap_or(0);
    let table = pe + 24 + usize::from(u16_at(head, pe + 20).unwrap_or(0));
    (0..usize::from(count)).any(|i| head.get(table + i * 40..).is_some_and(|s| s.starts_with(name)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn guess(head: &[u8]) -> Option<&'static str> {
    let table: [(&[u8], &'static str); 7] = [
        (
            b"\x1f\x8b",
            "gzip data; unpack it first (arm64 kernels are often packed so), or is it the initramfs?",
        ),
        (b"\x7fELF", "an ELF file; give the bzImage or Image that the kernel's build makes of it"),
        (b"hsqs", "a squashfs; that is what --rootfs takes"),
        (b"0707", "a cpio archive; that is what --initramfs takes"),
        (b"\x28\xb5\x2f\xfd", "zstd data, perhaps the initramfs"),
        (b"\xfd7zXZ", "xz data, perhaps the initramfs"),
        (b"!<arch>", "a Debian package; unpack it with dpkg-deb -x"),
    ];
    let empty = head.is_empty().then_some("an empty file");
    empty.or_else(|| table.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, words)| *words))
}

/// Is this what a kernel unpacks as an initramfs? A cpio archive, plain or packed; an error in words.
pub fn check_initramfs(head: &[u8]) -> Result<(), String> {
    // The kernel's own list (lib/decompress.c), and both newc formats.
    let known: [&[u8]; 9] = [
        b"070701",
        b"070702",
        b"\x1f\x8b",
        b"\x1f\x9e",
        b"BZh",
        b"\x5d\x00",
        b"\xfd7zXZ",
        b"\x89LZO",
        b"\x02\x21\x4c\x18",
    ];
    if known.iter().any(|magic| head.starts_with(magic)) || head.starts_with(b"\x28\xb5\x2f\xfd") {
        return Ok(());
    }
    Err(match head {
        [] => "it is an empty file".into(),
        _ if head.starts_with(b"hsqs") => "it is a squashfs; that is what --rootfs takes".into(),
        _ if identify(head).is_ok() => "it is a kernel; that is what --kernel takes".into(),
        _ => "it is no cpio archive (newc), plain or packed with gzip, zstd, xz, lz4, lzo, lzma or bzip2"
            .into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn bz(flags: u16) -> Vec<u8> {
        let mut h = vec![0; 0x4000];
        put(&mut h, 0, b"MZ");
        put(&mut h, 0x1fe, &[0x55, 0xaa]);
        put(&mut h, 0x202, b"HdrS\x0f\x02");
        put(&mut h, 0x20e, &0x3000u16.to_le_bytes());
        put(&mut h, 0x3200, b"6.1.0-49-amd64 (debian-kernel@lists.debian.org) #1 SMP\0");
        put(&mut h, 0x236, &flags.to_le_bytes());
        h
    }

    fn pe(machine: u16) -> Vec<u8> {
        let mut h = vec![0; 0x400];
        put(&mut h, 0, b"MZ\0\0zimg");
        put(&mut h, 0x3c, &[0x80]);
        put(&mut h, 0x80, b"PE\0\0");
        put(&mut h, 0x84, &machine.to_le_bytes());
        h
    }

    #[test]
    fn knows_kernels_and_their_machines() {
        let k = identify(&bz(1)).unwrap();
        assert_eq!((k.arch, k.format, k.release()), (Arch::X86_64, Format::BzImage, Some("6.1.0-49-amd64")));
        assert!(matches!(identify(&bz(0)), Err(KernelError::OtherArch(_))));
        let mut arm = vec![0; 64];
        put(&mut arm, 0x38, b"ARM\x64");
        assert_eq!(identify(&arm).unwrap().arch, Arch::Aarch64);
        put(&mut arm, 0x38, b"RSC\x05");
        assert_eq!(identify(&arm).unwrap().arch, Arch::Riscv64);
        for (machine, arch) in [(0xaa64, Arch::Aarch64), (0x6264, Arch::Loongarch64), (0x8664, Arch::X86_64)]
        {
            assert_eq!(identify(&pe(machine)).unwrap().arch, arch);
        }
        assert!(matches!(identify(&pe(0x14c)), Err(KernelError::OtherArch(_))));
    }

    #[test]
    fn says_what_the_file_is_instead() {
        let said = |bytes: &[u8]| identify(bytes).unwrap_err().to_string();
        assert!(said(b"\x7fELF").contains("ELF"));
        assert!(said(b"hsqs").contains("--rootfs"));
        assert!(said(b"").contains("empty"));
        assert_eq!(said(b"hello"), "it is not a Linux kernel");
        let mut ipxe = pe(0x8664);
        put(&mut ipxe, 4, &[0; 4]);
        assert!(said(&ipxe).contains("another EFI program"));
    }

    #[test]
    fn knows_an_initramfs() {
        assert!(check_initramfs(b"070701000").is_ok());
        assert!(check_initramfs(b"\x28\xb5\x2f\xfd....").is_ok());
        assert!(check_initramfs(&bz(1)).unwrap_err().contains("--kernel"));
        assert!(check_initramfs(b"hello").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(mut head in proptest::collection::vec(proptest::num::u8::ANY, 0..1200)) {
            let _ = identify(&head);
            for (at, magic) in [(0usize, &b"MZ"[..]), (0x3c, &[0x80, 0]), (0x80, b"PE\0\0"), (0x1fe, &[0x55, 0xaa]), (0x202, b"HdrS\x0f\x02")] {
                if let Some(part) = head.get_mut(at..at + magic.len()) {
                    part.copy_from_slice(magic);
                }
                let _ = identify(&head);
            }
        }
    }
}
