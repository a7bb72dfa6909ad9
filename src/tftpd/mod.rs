//! TFTP for boot programs: an engine of its own.
//!
//! `packet` reads and writes packets and `transfer` decides what is sent when: both are pure, so
//! that loss, duplication and reordering run in microsecond tests. `server` is the thin shell:
//! a socket per served address, and one per transfer; `sender` puts a window on the wire. See `tests/it/tftp.rs` for why async-tftp,
//! which this replaced, does not do (it resends an OACK that the client has refused).

mod files;
mod live;
pub mod packet;
mod sender;
mod server;
mod session;
pub mod transfer;

pub use files::Files;
pub use server::{BindError, Counters, Server, Settings};
