//! What a machine is made of, for `pristine machine show`.

use super::text;
use crate::model::{
    Facts, Millis,
    facts::{Disk, Nic},
};

/// Names and values, one line each.
pub(super) fn rows(facts: &Facts, now: Millis) -> Vec<(&'static str, String)> {
    let firmware = &facts.firmware;
    let kind = Some(if firmware.uefi { "uefi" } else { "bios" });
    let words = [kind, firmware.vendor.as_deref(), firmware.version.as_deref(), firmware.date.as_deref()];
    let mut rows = vec![("firmware is", words.into_iter().flatten().collect::<Vec<_>>().join(" "))];
    if let Some(cpu) = &facts.cpu {
        let model = cpu.model.as_deref().unwrap_or("unknown model");
        rows.push(("CPU", format!("{model}, {} cores, {} threads", cpu.cores, cpu.threads)));
    }
    if let Some(memory) = facts.memory {
        rows.push(("memory", format!("{:.1} GiB", memory as f64 / f64::from(1 << 30))));
    }
    match facts.disks.as_deref() {
        None => rows.push(("disks", "not looked at: their drivers were not loaded".into())),
        Some([]) => rows.push(("disks", "none".into())),
        Some(disks) => rows.extend(disks.iter().map(|d| ("disk", disk(d)))),
    }
    rows.extend(facts.nics.iter().map(|n| ("NIC", nic(n, now))));
    rows.push(("told", format!("{} ({} ago)", text::time(facts.at), text::ago(now - facts.at))));
    rows
}

fn disk(disk: &Disk) -> String {
    let serial = disk.serial.as_ref().map(|s| format!("serial {s}"));
    let more = [disk.model.clone(), serial, disk.path.clone()].into_iter().flatten();
    let parts: Vec<String> =
        [format!("{} {}", disk.name, text::size(disk.bytes))].into_iter().chain(more).collect();
    parts.join(", ")
}

fn nic(nic: &Nic, now: Millis) -> String {
    let mut out = format!("{} {}", nic.mac, nic.name);
    if let Some(driver) = &nic.driver {
        out.push_str(&format!(" ({driver})"));
    }
    out.push_str(if nic.link { ", link" } else { ", no link" });
    if let Some(speed) = nic.speed.filter(|_| nic.link) {
        out.push_str(&format!(" {speed} Mbit/s"));
    }
    if let Some(neighbour) = &nic.neighbour {
        let switch = neighbour.system.as_ref().unwrap_or(&neighbour.chassis);
        let heard = text::ago(now - neighbour.at);
        out.push_str(&format!(", port {} of {switch}, heard {heard} ago", neighbour.port));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn facts_are_shown_a_line_each() {
        let facts: Facts = serde_json::from_str(
            r#"{"at":1000,"firmware":{"uefi":true,"vendor":"EDK II","version":"2.1","date":"02/02/2022"},
                "cpu":{"cores":2,"threads":4},"memory":1073741824,
                "disks":[{"name":"vda","bytes":20000000000,"serial":"S1","path":"pci-0000:00:04.0"}],
                "nics":[{"mac":"52:54:00:12:34:56","name":"eth0","driver":"tg3","link":true,"speed":1000,
                         "neighbour":{"at":1000,"chassis":"x","system":"leaf-3","port":"Eth7"}},
                        {"mac":"52:54:00:12:34:57","name":"eth1"}]}"#,
        )
        .unwrap();
        let text = text::pairs(&rows(&facts, 61_000));
        assert_eq!(
            text,
            "firmware is  uefi EDK II 2.1 02/02/2022\n\
             CPU          unknown model, 2 cores, 4 threads\n\
             memory       1.0 GiB\n\
             disk         vda 20.00 GB, serial S1, pci-0000:00:04.0\n\
             NIC          52:54:00:12:34:56 eth0 (tg3), link 1000 Mbit/s, port Eth7 of leaf-3, heard 1m ago\n\
             NIC          52:54:00:12:34:57 eth1, no link\n\
             told         1970-01-01 00:00:01Z (1m ago)\n"
        );
    }
}
