//! Pristine: a bare-metal network-boot provisioner. `ARCHITECTURE.md` is the map; here the modules
//! from the bottom up (imports run downward only, held by `tests/it/layers.rs`).

// rank 0
pub mod model;
// ranks 1 and 2: pure, but for `sys`

pub mod dhcp;
pub mod fleet;
pub mod netboot;
pub mod profile;
pub mod sys;
// rank 2
pub mod power;
pub mod store;
// rank 3
pub mod image;
pub mod provisioner;
// rank 4: siblings never import each other
pub mod api;
pub mod client;
pub mod config;
pub mod dhcpd;
pub mod httpd;
pub mod tftpd;
// rank 5
pub mod doctor;
pub mod serve;
// rank 6
pub mod lab;
// rank 7
pub mod cli;
