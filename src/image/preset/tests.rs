//! Each preset's boot script, to the last byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::{
    model::{Arch, AttemptId, BlobRef, Digest, Image, Mac, Machine, Manifest, RootFs, Verity},
    netboot::{ScriptInput, ScriptTarget, ServerAddr, boot_script, cmdline},
};

fn image(preset: &Preset) -> Image {
    let blob = |n| BlobRef { digest: Digest([n; 32]), size: 1 << 20 };
    let verity =
        Verity { root_hash: Digest([4; 32]), salt: Digest([5; 32]), data_blocks: 256, tree: blob(6) };
    let rootfs = (preset.layouts[0].rootfs != Root::None).then_some(RootFs { blob: blob(3), verity });
    let manifest = Manifest {
        schema: 1,
        tag: format!("{}:1", preset.name).parse().unwrap(),
        arch: Arch::X86_64,
        kernel: blob(1),
        initramfs: vec![blob(2)],
        rootfs,
        cmdline: format!("{} console=ttyS0,115200", preset.cmdline),
        native: false,
        labels: Default::default(),
        provenance: Default::default(),
    };
    Image { digest: Digest([0xab; 32]), manifest }
}

#[test]
fn the_whole_script_of_each_preset() {
    let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    let machine = Machine { hostname: Some("web1".into()), ..Machine::new(mac, 0) };
    for preset in PRESETS {
        let image = image(preset);
        let script = boot_script(&ScriptInput {
            server: ServerAddr { ip: std::net::Ipv4Addr::new(198, 18, 0, 1), http_port: 8080 },
            machine: &machine,
            mac,
            target: ScriptTarget::Image(&image),
            attempt: AttemptId(0xfeed),
            token: "tokentokentoken1",
            generation: 7,
            args: &[],
            config: None,
            roots: Default::default(),
        });
        insta::assert_snapshot!(preset.name, script.unwrap());
    }
}

#[test]
fn the_table_is_whole() {
    for preset in PRESETS {
        let fetches = cmdline::fetches_root(preset.cmdline);
        let root = preset.layouts.iter().all(|l| (l.rootfs != Root::None) == fetches);
        assert!(root, "{}: a root is there exactly where the command line names it", preset.name);
        assert_eq!(cmdline::check(preset.cmdline, Arch::X86_64, false, fetches), Ok(()), "{}", preset.name);
        assert_eq!(named(preset.name), Some(preset));
        assert!(!preset.sources.is_empty() && !preset.notes.is_empty(), "{}", preset.name);
        let words = [preset.about, preset.cmdline, preset.verifies].concat() + &preset.notes.concat();
        assert!(!words.contains("  ") && preset.about.len() < 90, "{}", preset.name);
    }
    assert_eq!(named("debian"), None);
}
