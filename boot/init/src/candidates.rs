//! Candidates and partitions, and which of them a volume means.

use crate::{
    config::Volume,
    disks,
    failure::{Doing, Result},
    signature::{self, Holds},
};
use std::{
    fs::{self, File},
    path::Path,
};

/// Where the kernel lists them.
const BLOCKS: &str = "/sys/class/block";
/// No disks of anybody's: the root itself lies on the first three.
const PASSED_OVER: [&str; 8] = ["loop", "dm-", "nbd", "ram", "zram", "sr", "fd", "md"];

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// As in `vda` or `nvme0n1p1`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Where it is plugged in, as /dev/disk/by-path names it: `pci-0000:00:05.0`.
    pub path: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// What is on it.
    pub holds: Holds,
    /// It is a part of a disk.
    pub is_partition: bool,
    /// The kernel sees partitions on it, or something uses it.
    pub in_use: bool,
    /// It takes no writes.
    pub read_only: bool,
}

impl Candidate {
    /// Its device file.
    pub fn node(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// In words, for who has to choose.
    fn words(&self) -> String {
        let holds = match &self.holds {
            Holds::Nothing => "blank".to_owned(),
            Holds::FileSystem { kind, label } if label.is_empty() => format!("{kind} without a label"),
            Holds::FileSystem { kind, label } => format!("{kind} `{label}`"),
            Holds::Other(what) => what.clone(),
        };
        let path = self.path.as_ref().map(|p| format!(", {p}")).unwrap_or_default();
        let serial = self.serial.as_ref().map(|s| format!(", serial {s}")).unwrap_or_default();
        format!("{} ({}{path}{serial}: {holds})", self.name, size(self.size))
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 10 << 30 => format!("{} GiB", b >> 30),
        b => format!("{} MiB", b >> 20),
    }
}

/// The names of all disks and partitions, for telling whether there are more than before.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(BLOCKS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !PASSED_OVER.iter().any(|p| name.starts_with(p)))
        .collect();
    names.sort();
    names
}

/// Looks at one.
pub fn look(name: &str) -> Result<Option<Candidate>> {
    let folder = Path::new(BLOCKS).join(name);
    let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned()).ok();
    let size = read("size").and_then(|s| s.parse::<u64>().ok()).unwrap_or(0).saturating_mul(512);
    if size == 0 {
        return Ok(None);
    }
    let part = read("partition");
    let real = fs::canonicalize(&folder).doing(format!("find {name}"))?;
    let whole = if part.is_some() { real.parent().unwrap_or(&real) } else { &real };
    let whole_name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let whole = disks::disk(whole, whole_name);
    let suffix = part.as_ref().map(|n| format!("-part{n}")).unwrap_or_default();
    let mut below = fs::read_dir(&folder).into_iter().flatten().flatten();
    let partitioned = below.any(|e| e.path().join("partition").exists());
    let held = fs::read_dir(folder.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
    let device = File::open(format!("/dev/{name}")).doing(format!("open /dev/{name}"))?;
    Ok(Some(Candidate {
        name: name.to_owned(),
        size,
        path: whole.as_ref().and_then(|d| d.path.as_ref()).map(|path| format!("{path}{suffix}")),
        serial: whole.and_then(|d| d.serial),
        holds: signature::look(&device, size).doing(format!("read /dev/{name}"))?,
        is_partition: part.is_some(),
        in_use: partitioned || held,
        read_only: read("ro").as_deref() == Some("1"),
    }))
}

/// What is to be done with the disk that a volume means.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// It has the file system.
    Mount(&'a Candidate),
    /// It is blank, and the volume may be made on it.
    Format(&'a Candidate),
}

/// Why no disk is the one.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It isn't there; it may appear yet.
    Missing(String),
    /// What is there must not be used.
    Wrong(String),
}

impl Unfit {
    /// In words.
    pub fn why(&self) -> &str {
        match self {
            Unfit::Missing(why) | Unfit::Wrong(why) => why,
        }
    }
}

/// The one disk that a volume means, of those that no other volume has (`taken`).
///
/// # Errors
/// None or several, or one that is not what it should be: with a list of what there is.
pub fn choose<'a>(
    volume: &Volume,
    disks: &'a [Candidate],
    taken: &[String],
) -> std::result::Result<Choice<'a>, Unfit> {
    let wrong = |why: String| Err(Unfit::Wrong(why));
    let list = |of: &[&Candidate]| of.iter().map(|d| d.words()).collect::<Vec<_>>().join("; ");
    let there = match disks {
        [] => "this machine has no disks, or its initramfs and image no driver for them".to_owned(),
        disks => format!("there are: {}", list(&disks.iter().collect::<Vec<_>>())),
    };
    let labelled: Vec<&Candidate> = disks
        .iter()
        .filter(|d| matches!(&d.holds, Holds::FileSystem { label, .. } if *label == volume.label))
        .collect();
    match labelled.as_slice() {
        [one] => {
            let is = |wanted: &str| matches!(&one.holds, Holds::FileSystem { kind, .. } if *kind == wanted);
            if !is(&volume.filesystem) {
                return wrong(format!(
                    "{} has its label, and it should be {}",
                    one.words(),
                    volume.filesystem
                ));
            }
            return match unfit(volume, one) {
                Some(why) => {
                    wrong(format!("the file system with its label is on {}, which {why}", one.words()))
                }
                None if one.read_only && !volume.options.iter().any(|o| o == "ro") => {
                    wrong(format!("{} takes no writes", one.words()))
                }
                None => Ok(Choice::Mount(one)),
            };
        }
        [] => {}
        several => return wrong(format!("several have its label: {}", list(several))),
    }
    if !volume.format {
        return Err(Unfit::Missing(format!(
            "no file system has its label, and it may not be made (format is not \"if-blank\"); {there}"
        )));
    }
    let fit: Vec<&Candidate> = disks
        .iter()
        .filter(|d| !d.is_partition && !taken.contains(&d.name) && unfit(volume, d).is_none())
        .collect();
    match fit.as_slice() {
        [] => {
            Err(Unfit::Missing(format!("no file system has its label, and no disk is what it says; {there}")))
        }
        [one] if one.holds != Holds::Nothing || one.in_use => wrong(format!(
            "the disk that it means, {}, is not blank, and is never formatted. If nothing on it is needed, wipe it: blkdiscard or dd",
            one.words()
        )),
        [one] if one.read_only => wrong(format!("{} takes no writes", one.words())),
        [one] => Ok(Choice::Format(one)),
        several => wrong(format!("several disks are what it says, so none is formatted: {}", list(several))),
    }
}

/// Why a disk isn't the one that a volume means.
fn unfit(volume: &Volume, disk: &Candidate) -> Option<String> {
    if let Some(wanted) = volume.path.as_ref().filter(|wanted| Some(*wanted) != disk.path.as_ref()) {
        return Some(format!("is not at {wanted}"));
    }
    if volume.serial.is_some() && volume.serial != disk.serial {
        return Some(format!("has not serial {}", volume.serial.as_deref().unwrap_or_default()));
    }
    if volume.min_size.is_some_and(|min| disk.size < min) {
        return Some(format!("is smaller than {}", size(volume.min_size.unwrap_or_default())));
    }
    if volume.max_size.is_some_and(|max| disk.size > max) {
        return Some(format!("is larger than {}", size(volume.max_size.unwrap_or_default())));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn disk(name: &str, holds: Holds) -> Candidate {
        Candidate {
            name: name.into(),
            size: 100 << 30,
            path: Some(format!("pci-0000:00:0{}.0", name.len())),
            serial: Some(format!("S-{name}")),
            holds,
            is_partition: false,
            in_use: false,
            read_only: false,
        }
    }

    fn ext4(label: &str) -> Holds {
        Holds::FileSystem { kind: "ext4", label: label.into() }
    }

    fn volume(format: bool) -> Volume {
        Volume {
            mount: "/data".into(),
            label: "data".into(),
            filesystem: "ext4".into(),
            format,
            min_size: Some(1 << 30),
            ..Volume::default()
        }
    }

    #[test]
    fn the_file_system_with_the_label_is_mounted_and_nothing_is_formatted_then() {
        let disks = [disk("vda", Holds::Nothing), disk("vdb", ext4("data"))];
        for format in [true, false] {
            assert_eq!(choose(&volume(format), &disks, &[]), Ok(Choice::Mount(&disks[1])));
        }
    }

    #[test]
    fn only_the_one_blank_disk_that_is_meant_is_formatted_and_only_when_told_to() {
        let blank = [disk("vda", Holds::Nothing)];
        assert_eq!(choose(&volume(true), &blank, &[]), Ok(Choice::Format(&blank[0])));
        let refused = |v: &Volume, disks: &[Candidate], taken: &[String]| {
            choose(v, disks, taken).unwrap_err().why().to_owned()
        };
        assert!(refused(&volume(false), &blank, &[]).contains("may not be made"));
        assert!(refused(&volume(true), &blank, &["vda".into()]).contains("no disk is what it says"));
        let two = [disk("vda", Holds::Nothing), disk("vdb", Holds::Nothing)];
        assert!(refused(&volume(true), &two, &[]).contains("several disks"));
        let with_serial = Volume { serial: Some("S-vdb".into()), ..volume(true) };
        assert_eq!(choose(&with_serial, &two, &[]), Ok(Choice::Format(&two[1])));
        assert!(choose(&volume(true), &two, &["vda".into()]).is_ok(), "the other one is another volume's");
    }

    #[test]
    fn a_disk_that_is_not_blank_is_never_formatted() {
        for holds in [ext4("other"), ext4(""), Holds::Other("a LUKS volume".into())] {
            let disks = [disk("vda", holds)];
            let why = choose(&volume(true), &disks, &[]).unwrap_err().why().to_owned();
            assert!(why.contains("not blank") && why.contains("vda (100 GiB"), "{why}");
        }
        let in_use = [Candidate { in_use: true, ..disk("vda", Holds::Nothing) }];
        assert!(choose(&volume(true), &in_use, &[]).unwrap_err().why().contains("not blank"));
        let part = [Candidate { is_partition: true, ..disk("vda1", Holds::Nothing) }];
        assert!(choose(&volume(true), &part, &[]).is_err());
        let read_only = [Candidate { read_only: true, ..disk("vda", Holds::Nothing) }];
        assert!(choose(&volume(true), &read_only, &[]).unwrap_err().why().contains("no writes"));
    }

    #[test]
    fn a_wrong_ambiguous_or_missing_volume_is_refused_with_what_there_is() {
        let twice = [disk("vda", ext4("data")), disk("vdb", ext4("data"))];
        assert!(choose(&volume(true), &twice, &[]).unwrap_err().why().contains("several have its label"));
        let small = [Candidate { size: 1 << 20, ..disk("vda", ext4("data")) }];
        assert!(choose(&volume(true), &small, &[]).unwrap_err().why().contains("is smaller than"));
        let xfs = [disk("vda", Holds::FileSystem { kind: "xfs", label: "data".into() })];
        assert!(choose(&volume(true), &xfs, &[]).unwrap_err().why().contains("should be ext4"));
        let elsewhere = Volume { path: Some("pci-0000:09:00.0".into()), ..volume(true) };
        let here = [disk("vda", ext4("data"))];
        assert!(choose(&elsewhere, &here, &[]).unwrap_err().why().contains("is not at pci-0000:09:00.0"));
        assert!(choose(&volume(true), &[], &[]).unwrap_err().why().contains("no disks"));
        let why = choose(&volume(false), &[disk("vda", ext4("other"))], &[]).unwrap_err().why().to_owned();
        assert!(why.contains("vda (100 GiB, pci-0000:00:03.0, serial S-vda: ext4 `other`)"), "{why}");
    }
}
