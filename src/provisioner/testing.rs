//! Shared by this part's unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use crate::{
    model::{Arch, BlobRef, Digest, Image, Manifest},
    netboot::ServerAddr,
};
use std::{collections::BTreeMap, net::Ipv4Addr};

pub(crate) fn server() -> ServerAddr {
    ServerAddr { ip: Ipv4Addr::new(198, 18, 0, 1), http_port: 8080 }
}

pub(crate) fn image(tag: &str, arch: Arch) -> Image {
    let blob = |b: &str| BlobRef { digest: Digest::of(b.as_bytes()), size: b.len() as u64 };
    let manifest = Manifest {
        schema: 1,
        tag: tag.parse().unwrap(),
        arch,
        kernel: blob("kernel"),
        initramfs: vec![blob("initramfs")],
        rootfs: None,
        cmdline: "quiet".into(),
        native: false,
        labels: BTreeMap::new(),
        provenance: BTreeMap::new(),
    };
    Image { digest: Digest::of(&manifest.to_bytes().unwrap()), manifest }
}
