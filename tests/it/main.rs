//! Integration tests, one binary: linking is slow, and they share the lab's code.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod boots;
mod boots_firmware;
mod dhcpd;
mod http;
mod layers;
mod tftp;
