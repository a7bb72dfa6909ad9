//! HTTP for machines: scripts, blobs, NBPs, boot reports, facts.
//!
//! `router` lists every route. `server` accepts, bounds and ends connections; `seats` says who goes where
//! there is no room for one more, `guard` holds readers to a pace, `senders` are the threads that send blobs. `blobs`
//! answers for immutable blobs (`range`: RFC 9110 as pure functions; `body`: hands a blob over as it is mapped, and knows
//! whether the last byte went out), `admission` gives each root that is fetched its turn, `boot` answers everything that is
//! decided per machine, `report` hears what machines say.

mod admission;
mod blobs;
mod body;
mod boot;
mod disk_turns;
mod guard;
mod machines;
mod range;
mod rate;
mod report;
mod router;
mod seats;
mod senders;
mod server;
mod signatures;

pub use admission::{Line, TurnCounters, Turns};
pub use guard::Pace;
pub use machines::Machines;
pub use range::MAX_RANGES;
pub use server::{BindError, Server, Settings};
