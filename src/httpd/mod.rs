//! HTTP for machines: scripts, blobs, NBPs, boot reports.
//!
//! `router` lists every route. `server` accepts, bounds and ends connections; `guard` holds readers
//! to a pace. `blobs` answers for immutable blobs (`range`: RFC 9110 as pure functions; `source`: a
//! mapping whose pages are loaded off the async threads; `body`: sends it and knows whether the last
//! byte went out), `boot` for everything that is decided per machine.

mod blobs;
mod body;
mod boot;
mod guard;
mod machines;
mod range;
mod rate;
mod router;
mod server;
mod signatures;
mod source;

pub use guard::Pace;
pub use machines::Machines;
pub use range::MAX_RANGES;
pub use server::{BindError, Server, Settings};
