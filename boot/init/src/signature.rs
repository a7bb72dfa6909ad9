//! What a disk holds, told from its bytes: a file system that a volume can be, something else, or nothing at all. Whatever isn't all
//! zeros is something: only what holds nothing is ever formatted.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Read from both ends, where every file system, partition table and array leaves its mark.
const END: u64 = 1 << 20;
/// Places in between that are looked at, and how much of each.
const PLACES: u64 = 64;
const PLACE: u64 = 64 << 10;

/// What is on a disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// Zeros, as far as was looked: both ends whole, and samples between them.
    Nothing,
    /// A file system that can be mounted as a volume.
    FileSystem {
        /// `ext4` (which mounts ext2 and ext3 as well) or `xfs`.
        kind: &'static str,
        /// Its label; empty where it has none.
        label: String,
    },
    /// Anything else, in words.
    Other(String),
}

/// Marks by place: from the start of the disk.
const HEAD: &[(&str, usize, &[u8])] = &[
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("a physical volume of LVM", 0x218, b"LVM2 001"),
    ("a physical volume of LVM", 0x18, b"LVM2 001"),
    ("a partition table (GPT)", 512, b"EFI PART"),
    ("a partition table (GPT)", 4096, b"EFI PART"),
    ("a file system (btrfs)", 0x1_0040, b"_BHRfS_M"),
    ("a file system (f2fs)", 1024, b"\x10\x20\xf5\xf2"),
    (
        "a file system (bcachefs or bcache)",
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    ("a file system (squashfs)", 0, b"hsqs"),
    ("a file system (NTFS)", 3, b"NTFS    "),
    ("a file system (exFAT)", 3, b"EXFAT   "),
    ("a file system (FAT)", 0x36, b"FAT"),
    ("a file system (FAT)", 0x52, b"FAT32"),
    ("a CD's file system (ISO 9660)", 0x8001, b"CD001"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a part of a RAID array", 0, b"\xfc\x4e\x2b\xa9"),
    ("a part of a RAID array", 4096, b"\xfc\x4e\x2b\xa9"),
];

/// Marks within the last bytes, by their distance from the end.
const TAIL: &[(&str, usize, &[u8])] =
    &[("a partition table (GPT)", 512, b"EFI PART"), ("a partition table (GPT)", 4096, b"EFI PART")];

fn at(bytes: &[u8], from: usize, len: usize) -> Option<&[u8]> {
    bytes.get(from..from.checked_add(len)?)
}

fn text(bytes: Option<&[u8]>) -> String {
    let bytes = bytes.unwrap_or_default();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// Looks at a device of `size` bytes.
pub fn look(device: &File, size: u64) -> io::Result<Holds> {
    let read = |from: u64, len: u64| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        device.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    };
    let head = read(0, size.min(END))?;
    let tail = read(size.saturating_sub(END), size.min(END))?;
    match marks(&head, &tail) {
        Holds::Nothing if is_zero(&head) && is_zero(&tail) => {
            for nth in 1..=PLACES {
                let from = (size / (PLACES + 1)).saturating_mul(nth) & !4095;
                if !is_zero(&read(from, PLACE.min(size - from))?) {
                    return Ok(Holds::Other(
                        "data of a kind that is not known here, though its ends are zeros".into(),
                    ));
                }
            }
            Ok(Holds::Nothing)
        }
        Holds::Nothing => Ok(Holds::Other("data of a kind that is not known here".into())),
        marked => Ok(marked),
    }
}

/// What the marks at both ends say. Two that contradict each other are nothing to mount and nothing to format.
fn marks(head: &[u8], tail: &[u8]) -> Holds {
    let mut found: Vec<Holds> = Vec::new();
    if at(head, 0x438, 2) == Some(b"\x53\xef") {
        found.push(Holds::FileSystem { kind: "ext4", label: text(at(head, 0x478, 16)) });
    }
    if at(head, 0, 4) == Some(b"XFSB") {
        found.push(Holds::FileSystem { kind: "xfs", label: text(at(head, 0x6c, 12)) });
    }
    let other = |what: &str| Holds::Other(what.to_owned());
    for (what, from, mark) in HEAD {
        if at(head, *from, mark.len()) == Some(mark) {
            found.push(other(what));
        }
    }
    for (what, before_end, mark) in TAIL {
        let from = tail.len().checked_sub(*before_end);
        if from.and_then(|from| at(tail, from, mark.len())) == Some(mark) {
            found.push(other(what));
        }
    }
    // A boot sector of DOS alone is a partition table; other things have one in front.
    if found.is_empty() && at(head, 510, 2) == Some(b"\x55\xaa") {
        found.push(other("a partition table (MBR) or a boot sector"));
    }
    found.dedup();
    match found.as_slice() {
        [] => Holds::Nothing,
        [one] => one.clone(),
        [first, ..] => {
            let name = |h: &Holds| match h {
                Holds::FileSystem { kind, .. } => format!("a file system ({kind})"),
                Holds::Other(what) => what.clone(),
                Holds::Nothing => String::new(),
            };
            let last = found.last().unwrap_or(first);
            Holds::Other(format!("{} and {} at once", name(first), name(last)))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const SIZE: u64 = 40 << 20;

    /// A sparse file with these bytes at these places.
    fn disk(parts: &[(u64, &[u8])]) -> File {
        let path = std::env::temp_dir().join(format!("pristine-disk-{:08x}", crate::random::bits()));
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(SIZE).unwrap();
        for (from, bytes) in parts {
            file.write_all_at(bytes, *from).unwrap();
        }
        file
    }

    fn holds(parts: &[(u64, &[u8])]) -> Holds {
        look(&disk(parts), SIZE).unwrap()
    }

    #[test]
    fn only_zeros_are_nothing() {
        assert_eq!(holds(&[]), Holds::Nothing);
        assert_eq!(look(&disk(&[]), 4096).unwrap(), Holds::Nothing);
        for from in [0, 1, 513, 70_000, END - 1, SIZE - END, SIZE - 1] {
            assert!(matches!(holds(&[(from, b"\x01")]), Holds::Other(_)), "one byte at {from}");
        }
        // Somebody wiped its head and tail only.
        assert!(matches!(holds(&[(4 << 20, &[7; 30 << 20])]), Holds::Other(_)));
    }

    #[test]
    fn each_mark_is_told() {
        for (what, from, mark) in HEAD {
            assert_eq!(holds(&[(*from as u64, mark)]), Holds::Other((*what).into()), "{what}");
        }
        for (what, before, mark) in TAIL {
            assert_eq!(holds(&[(SIZE - *before as u64, mark)]), Holds::Other((*what).into()), "{what}");
        }
        let Holds::Other(what) = holds(&[(510, b"\x55\xaa")]) else { panic!("nothing") };
        assert!(what.contains("MBR"), "{what}");
    }

    #[test]
    fn file_systems_are_found_with_their_labels_unless_something_contradicts() {
        let ext = [(0x438, &b"\x53\xef"[..]), (0x478, b"pgdata\0\0")];
        assert_eq!(holds(&ext), Holds::FileSystem { kind: "ext4", label: "pgdata".into() });
        let xfs = [(0, &b"XFSB"[..]), (0x6c, b"logs-of-db7\0")];
        assert_eq!(holds(&xfs), Holds::FileSystem { kind: "xfs", label: "logs-of-db7".into() });
        let both = [ext[0], ext[1], (512, b"EFI PART")];
        let Holds::Other(what) = holds(&both) else { panic!("taken for one") };
        assert!(what.contains("ext4") && what.contains("GPT") && what.contains("at once"), "{what}");
    }

    #[test]
    fn what_mke2fs_makes_is_found() {
        let path = std::env::temp_dir().join(format!("pristine-mke2fs-{:08x}", crate::random::bits()));
        std::fs::write(&path, vec![0; 8 << 20]).unwrap();
        let made = std::process::Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-L", "data"])
            .arg(&path)
            .output();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // A machine without e2fsprogs makes none.
        if made.is_ok_and(|out| out.status.success()) {
            assert_eq!(
                look(&file, 8 << 20).unwrap(),
                Holds::FileSystem { kind: "ext4", label: "data".into() }
            );
        }
    }
}
