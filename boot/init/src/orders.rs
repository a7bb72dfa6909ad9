//! What the service wants of this machine next. Asked by a request that the service holds until it knows, so
//! that the answer comes at once and hardly anything is asked meanwhile.

use crate::{
    digest::Digest,
    failure::{Result, failed},
    fetch::backoff,
    http::{self, Limits, Trouble},
    random,
    report::Reporter,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const PATH: &str = "/boot/orders";
/// The service holds a request for 20 s.
const LIMITS: Limits = Limits { connect: Duration::from_secs(5), idle: Duration::from_secs(28) };
/// Longest answer: a command line and some digests.
const MAX_ANSWER: u64 = 16 << 10;
/// Longest wait before a service that is gone, or has no room, is asked again; less half of it, by chance.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Nothing yet: ask again.
    Wait {
        /// What it waits for.
        why: String,
    },
    /// Restart, through the firmware.
    Restart {
        /// Why.
        why: String,
    },
    /// Start this by kexec.
    Boot(Next),
}

/// The boot that follows this one.
#[derive(Deserialize)]
pub struct Next {
    /// Its boot attempt.
    pub boot: String,
    /// That one's token.
    pub token: String,
    /// The image's identity, from which all else is proven.
    pub image: Digest,
    /// The kernel command line.
    pub cmdline: String,
}

#[derive(Serialize)]
struct Asks<'a> {
    mac: &'a str,
}

/// Asks until there is something to do. What is waited for is told to `waits` each time.
pub fn wait(reporter: &Reporter, mac: &str, mut waits: impl FnMut(&str)) -> Result<Order> {
    let mut tries = 0;
    loop {
        match ask(reporter, mac) {
            Ok(Order::Wait { why }) => {
                tries = 0;
                waits(&why);
                std::thread::sleep(Duration::from_millis(random::below(500)));
            }
            Ok(order) => return Ok(order),
            Err(Trouble::Final { why }) => {
                return failed(format!("http://{} gives no orders: {why}", reporter.server));
            }
            Err(Trouble::Passing { why, after }) => {
                tries += 1;
                waits(&format!("{why}; asking again"));
                // All that wait heard of the end of the service at the same moment.
                let most = (backoff(tries, 1000) * 4).max(after.unwrap_or_default()).min(LONGEST_WAIT);
                std::thread::sleep(most / 2 + most * random::below(500) as u32 / 1000);
            }
        }
    }
}

fn ask(reporter: &Reporter, mac: &str) -> std::result::Result<Order, Trouble> {
    let unreadable = |e: serde_json::Error| Trouble::Final { why: format!("its answer can't be read: {e}") };
    let body = serde_json::to_string(&Asks { mac }).map_err(unreadable)?;
    let (status, answer) = http::post(reporter.server, PATH, &reporter.token, &body, MAX_ANSWER, LIMITS)?;
    match status {
        200 => serde_json::from_slice(&answer).map_err(unreadable),
        408 | 425 | 429 | 500..=599 => Err(Trouble::Passing {
            why: format!("the server answers {status}"),
            after: Some(LONGEST_WAIT).filter(|_| status == 503),
        }),
        _ => {
            let said: String =
                String::from_utf8_lossy(&answer).chars().filter(|c| !c.is_control()).take(300).collect();
            Err(Trouble::Final { why: format!("it answers {status}: {said}") })
        }
    }
}
