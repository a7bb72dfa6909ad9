//! The machine's disks, as the kernel shows them in /sys.

use serde::Serialize;
use std::{
    fs,
    path::{Component, Path},
};

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// As in `sda`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its name under `/dev/disk/by-path`, where that follows from where it is plugged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// All disks that are real devices: no loop devices, RAM disks or what lies over others.
pub fn list() -> Vec<Disk> {
    let mut disks: Vec<Disk> = fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().join("device").exists())
        .filter_map(|e| disk(&e.path(), e.file_name().into_string().ok()?))
        .collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

/// One of them, by its folder in /sys.
pub fn disk(dir: &Path, name: String) -> Option<Disk> {
    let read = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    };
    let sectors: u64 = read("size")?.parse().ok()?;
    // A drive without a medium has size 0.
    if sectors == 0 || name.starts_with("sr") {
        return None;
    }
    // SCSI's page of the serial number: a header of four bytes, then text (SPC-4, 7.8.15).
    let page = || {
        let page = fs::read(dir.join("device/vpd_pg80")).ok()?;
        Some(String::from_utf8_lossy(page.get(4..)?).trim_matches(['\0', ' ']).to_owned())
            .filter(|t| !t.is_empty())
    };
    Some(Disk {
        bytes: sectors * 512,
        model: read("device/model"),
        serial: read("serial").or_else(|| read("device/serial")).or_else(page),
        path: fs::canonicalize(dir).ok().and_then(|dir| by_path(&dir, read("nsid").as_deref(), port_of)),
        name,
    })
}

/// The port of an ATA controller that the kernel calls `ata5`.
fn port_of(ata: &str) -> Option<String> {
    let file = format!("/sys/class/ata_port/{ata}/port_no");
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

/// udev's name (path_id) of a disk whose folder is this one of /sys/devices: for NVMe, SATA and virtio. For
/// others (SAS, USB) it hangs on more than the folder says.
fn by_path(dir: &Path, nsid: Option<&str>, port: impl Fn(&str) -> Option<String>) -> Option<String> {
    let parts: Vec<&str> = dir
        .components()
        .filter_map(|c| match c {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    let at = parts.iter().rposition(|part| is_pci(part))?;
    let (pci, below) = (parts.get(at)?, parts.get(at + 1..)?);
    match below {
        ["nvme", ..] => Some(format!("pci-{pci}-nvme-{}", nsid?)),
        [virtio, "block", _] if virtio.starts_with("virtio") => Some(format!("pci-{pci}")),
        [ata, host, ..] if ata.starts_with("ata") && host.starts_with("host") => {
            Some(format!("pci-{pci}-ata-{}", port(ata)?))
        }
        _ => None,
    }
}

/// As in `0000:3b:00.0`.
fn is_pci(part: &str) -> bool {
    let mask = part.bytes().map(|b| if b.is_ascii_hexdigit() { b'x' } else { b });
    part.len() == 12 && mask.eq(*b"xxxx:xx:xx.x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_udev_names_them() {
        for (dir, name) in [
            (
                "/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/nvme/nvme0/nvme0n1",
                Some("pci-0000:3b:00.0-nvme-1"),
            ),
            (
                "/sys/devices/pci0000:00/0000:00:1f.2/ata5/host4/target4:0:0/4:0:0:0/block/sda",
                Some("pci-0000:00:1f.2-ata-1"),
            ),
            ("/sys/devices/pci0000:00/0000:00:04.0/virtio2/block/vda", Some("pci-0000:00:04.0")),
            (
                "/sys/devices/pci0000:00/0000:00:01.0/0000:02:00.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda",
                None,
            ),
            ("/sys/devices/virtual/block/loop0", None),
        ] {
            let got = by_path(Path::new(dir), Some("1"), |ata| (ata == "ata5").then(|| "1".to_owned()));
            assert_eq!(got.as_deref(), name, "{dir}");
        }
    }
}
