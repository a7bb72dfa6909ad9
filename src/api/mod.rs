//! REST + JSON for operators, under /api/v1, on a listener of its own. Every request needs the
//! bearer token; `docs/api.md` describes each route, held to `router` by a test.
//!
//! | file | idea |
//! |---|---|
//! | `router` | every route there is |
//! | `machines`, `profiles`, `boots`, `site`, `secrets`, `power`, `log`, `bulk`, … | what they do |
//! | `on_disk` | what reads and writes files |
//! | `by` | in whose name something is changed |
//! | `watch` | the live stream |
//! | `metrics` | the counters, for Prometheus |
//! | `auth`, `token` | who may ask |
//! | `refusal` | how a no looks |
//! | `server` | the listener and its bounds |

mod auth;
mod boots;
mod bulk;
mod by;
mod log;
mod machines;
mod metrics;
mod on_disk;
mod power;
mod profiles;
mod refusal;
mod rollouts;
mod router;
mod rules;
mod secrets;
mod server;
mod site;
mod token;
mod uploads;
mod watch;

pub use refusal::Refusal;
pub use router::{Api, AskOthers, Others, ROUTES, router};
pub use server::{Counters, Settings, run};
pub use token::{Token, TokenError};
