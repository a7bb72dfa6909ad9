//! A real machine that nobody assigned an image to: it waits in memory, tells what it is made of, and starts its
//! image by kexec.

use super::boots::{BOOT, LINE, Site, Slot};
use pristine::{
    lab::{Firmware, Mark, Mode, Net, Shell},
    model::{Facts, Stage},
    sys::PacketSocket,
};
use std::{collections::BTreeSet, time::Duration};

/// What a switch says of a port, as a whole frame.
fn lldp() -> Vec<u8> {
    let tlv = |kind: u16, value: &[u8]| [&(kind << 9 | value.len() as u16).to_be_bytes()[..], value].concat();
    [
        vec![0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc],
        tlv(1, &[4, 2, 0, 0, 0, 0, 1]),
        tlv(2, b"\x05Ethernet1/7"),
        tlv(3, &[0, 120]),
        tlv(5, b"leaf-3"),
        tlv(0, b""),
    ]
    .concat()
}

#[test]
fn a_discovered_machine_runs_its_image_without_a_second_firmware_pass() {
    let _slot = Slot::take();
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let site = Site::with(net, server, Mode::Full, "discover_image = \"tiny:1\"");
    site.lab.cli(&["default", "--clear"]).unwrap();
    // The lab's switch hands on what real ones keep to themselves.
    let mut bridge = site.lab.net().command("ip");
    bridge.args(["link", "set", "sw0", "type", "bridge", "group_fwd_mask", "16384"]);
    assert!(bridge.status().unwrap().success());

    let vm = site.power_on(1, Firmware::UefiHttp);
    let mac = vm.spec().mac;
    let waits = site.lab.follow().wait(mac, &BTreeSet::new(), "a machine that waits", BOOT, |attempt| {
        (attempt.reached() == Some(Stage::Network)).then(|| attempt.clone())
    });
    let waits = site.show(&vm, waits);
    assert_eq!((waits.image, waits.waits_with.unwrap().to_string()), (None, site.digest("tiny:1")));
    site.show(&vm, vm.console().wait_for(Mark::default(), "WAITING FOR AN ASSIGNMENT", LINE));

    let switch = || {
        let eth0 = pristine::sys::links::interface("eth0").unwrap().unwrap();
        PacketSocket::open(eth0.index, None).unwrap().send(&lldp()).unwrap();
    };
    let heard = (0..60).any(|_| {
        site.lab.server().enter(switch).unwrap();
        vm.console()
            .wait_for(Mark::default(), "is at port Ethernet1/7 of leaf-3", Duration::from_secs(1))
            .is_ok()
    });
    assert!(heard, "{}", vm.console().tail(40));
    let told = site.lab.cli(&["machine", "show", &mac.to_string(), "--json"]).unwrap();
    let machine: serde_json::Value = serde_json::from_str(&told).unwrap();
    let facts: Facts = serde_json::from_value(machine["facts"].clone()).unwrap();
    assert_eq!((facts.vendor.as_deref(), facts.product.as_deref()), (Some("Pristine"), Some("Lab")));
    assert_eq!((facts.serial.as_deref(), facts.firmware.uefi), (Some("LAB-uefi-http-1"), true));
    assert!(facts.memory.is_some_and(|bytes| bytes > 900 << 20) && facts.cpu.unwrap().threads == 1, "{told}");
    let [nic] = facts.nics.as_slice() else { panic!("{told}") };
    assert_eq!((nic.mac, nic.driver.as_deref(), nic.link), (mac, Some("virtio_net"), true));
    assert_eq!(nic.neighbour.as_ref().and_then(|n| n.system.as_deref()), Some("leaf-3"), "{told}");

    site.lab.cli(&["pin", &mac.to_string(), "tiny:2"]).unwrap();
    let booted = site.healthy(&vm, &[waits.id].into());
    assert_eq!(
        (booted.image.unwrap().to_string(), booted.kexec_from),
        (site.digest("tiny:2"), Some(waits.id))
    );
    let reached: BTreeSet<Stage> = booted.stages.iter().map(|s| s.stage).collect();
    assert!(reached.contains(&Stage::Initramfs) && !reached.contains(&Stage::Discover), "{reached:?}");
    assert_eq!(site.lab.follow().attempts(mac).len(), 2, "its firmware asked once");
    let console = vm.console().text();
    let firmware = "BdsDxe: starting";
    assert_eq!(console.matches(firmware).count(), 1, "its firmware ran once:\n{console}");
    let mut shell = site.show(&vm, Shell::open(vm.console(), LINE));
    assert_eq!(site.show(&vm, shell.run("cat /etc/pristine-image", LINE)), "tiny:2");
}
