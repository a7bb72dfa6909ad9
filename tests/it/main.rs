//! Integration tests, one binary: linking is slow, and they share the lab's code.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod api;
mod audit;
mod boots;
mod boots_built;
mod boots_firmware;
mod boots_foreign;
mod boots_kexec;
mod boots_power;
mod boots_streamed;
mod boots_volumes;
mod build;
mod cli;
mod declared;
mod dhcpd;
mod diff;
mod fleet;
mod foreign;
mod fuzz;
mod http;
mod images;
mod layers;
mod power;
mod serve;
mod signatures;
mod store;
mod tftp;
mod torture;
mod transfer;
