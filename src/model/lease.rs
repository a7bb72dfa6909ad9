use super::{Mac, Millis};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Who holds a lease: the client identifier (option 61) where the client sent one, else its MAC
/// (RFC 2131 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKey {
    /// Option 61 as sent, 2 to 255 bytes.
    Id(Vec<u8>),
    /// No option 61.
    Mac(Mac),
}

/// One IPv4 address and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address: unique among leases.
    pub addr: Ipv4Addr,
    /// Its holder.
    pub client: ClientKey,
    /// MAC that last used it: a boot changes client id from firmware to iPXE to `init` to
    /// userland, and all of them are one machine.
    pub mac: Mac,
    /// Where it stands in its life.
    pub state: LeaseState,
    /// When this state ends.
    pub expires: Millis,
    /// Option 12 of its latest request.
    pub hostname: Option<String>,
}

/// The life of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Held for the client that was offered it; in memory only.
    Offered,
    /// ACKed.
    Bound,
    /// Given back by the client; kept so that it gets the same one again.
    Released,
    /// Somebody else answers on it: by DECLINE or by our probe. Quarantined until it expires.
    Declined,
}
