use super::{Digest, Millis};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a machine is switched on, off and made to boot anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Power {
    /// By people: what waits for a boot waits for them.
    #[default]
    Manual,
    /// By the agent of its image (`agent run`), while that runs.
    Agent {
        /// It starts what it is assigned by kexec, where its kernel lets it, instead of going through its firmware.
        #[serde(default)]
        kexec: bool,
    },
    /// By its BMC, over Redfish (DSP0266).
    Redfish(Redfish),
    /// By its BMC, over IPMI 2.0 (`lanplus`).
    Ipmi(Ipmi),
}

/// A BMC that speaks Redfish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redfish {
    /// Scheme, host and port, as in `https://10.0.7.1`.
    pub url: String,
    /// Id or path of its ComputerSystem; left out where the BMC has one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Secret that holds `user:password`.
    pub secret: String,
    /// SHA-256 of its certificate; with none, nothing is sent to it over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Digest>,
    /// From where it boots once it is made to.
    #[serde(default)]
    pub boot: BootOnce,
}

/// A BMC that speaks IPMI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ipmi {
    /// Host name or address, with `:port` where it isn't 623.
    pub address: String,
    /// Secret that holds `user:password`.
    pub secret: String,
}

/// From where a machine boots the next time, whatever its firmware's order says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootOnce {
    /// The network, by PXE.
    #[default]
    Pxe,
    /// The network, by UEFI HTTP Boot.
    Http,
}

impl Power {
    /// Whether people switch it.
    pub fn is_manual(&self) -> bool {
        *self == Power::Manual
    }

    /// Whether this service can make it boot anew.
    pub fn is_remote(&self) -> bool {
        !self.is_manual()
    }

    /// Name of the secret that it needs.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Power::Redfish(bmc) => Some(&bmc.secret),
            Power::Ipmi(bmc) => Some(&bmc.secret),
            Power::Manual | Power::Agent { .. } => None,
        }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Power::Manual => f.write_str("manual"),
            Power::Agent { kexec: false } => f.write_str("agent"),
            Power::Agent { kexec: true } => f.write_str("agent, by kexec"),
            Power::Redfish(bmc) => write!(f, "redfish {}", bmc.url),
            Power::Ipmi(bmc) => write!(f, "ipmi {}", bmc.address),
        }
    }
}

/// What can be done to a machine's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Switch it on.
    On,
    /// Switch it off at once, whatever it does.
    Off,
    /// Have it boot from the network once, and begin that boot now: off and on again, or on.
    Cycle,
    /// Have it boot from the network once, whenever it boots next.
    BootOnce,
}

impl fmt::Display for PowerAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PowerAction::On => "on",
            PowerAction::Off => "off",
            PowerAction::Cycle => "cycle",
            PowerAction::BootOnce => "boot-once",
        })
    }
}

/// That a machine's BMC doesn't do what it is asked to; gone once it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerFault {
    /// Times in a row.
    pub times: u32,
    /// The first of them.
    pub since: Millis,
    /// The last of them.
    pub last: Millis,
    /// What was wrong then, with the BMC's words.
    pub error: String,
}

/// That the service wants a machine to boot anew, and what came of it so far. On the machine's record
/// from the moment when it is wanted until it boots, so that a restart of the service neither forgets
/// it nor begins again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reboot {
    /// Since when.
    pub since: Millis,
    /// Orders that its BMC took, or that nobody knows the outcome of.
    #[serde(default)]
    pub taken: u8,
    /// Orders that failed.
    #[serde(default)]
    pub failed: u8,
    /// The last order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Millis>,
    /// Why the last order failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why there will be no more orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<String>,
}

impl Reboot {
    /// Wanted from now on.
    pub fn wanted(now: Millis) -> Reboot {
        Reboot { since: now, taken: 0, failed: 0, last: None, error: None, gave_up: None }
    }
}
