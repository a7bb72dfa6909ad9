use super::{AttemptConfig, ClientArch, Digest, Mac, Millis, Rule};
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr};

/// Names one boot attempt: 16 hex digits, random. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for AttemptId {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed = if ok { u64::from_str_radix(s, 16).ok() } else { None };
        parsed.map(AttemptId).ok_or("a boot attempt is named by 16 hex digits")
    }
}

impl Serialize for AttemptId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AttemptId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The steps of a boot, in order. A machine may skip some (a ROM with iPXE fetches no NBP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// First DHCP packet of this power-on.
    Discover,
    /// An address was offered.
    Offer,
    /// The address was acknowledged.
    Ack,
    /// The NBP was fetched whole.
    Nbp,
    /// The per-machine script was rendered: the boot target is now fixed for this attempt.
    Script,
    /// The kernel was fetched whole.
    Kernel,
    /// The initramfs was fetched whole.
    Initramfs,
    /// `init` runs (reported by it).
    Init,
    /// `init` has an address and reaches the service (reported by it).
    Network,
    /// The rootfs is on the machine (reported by it).
    Rootfs,
    /// The rootfs is verified and mounted (reported by it).
    Verified,
    /// `init` has applied the machine's configuration (reported by it, where there is one).
    Configured,
    /// `init` hands over to the image's own init (reported by it).
    SwitchRoot,
    /// The running system says that it is up.
    Healthy,
}

impl fmt::Display for Stage {
    /// As the API names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Discover => "discover",
            Stage::Offer => "offer",
            Stage::Ack => "ack",
            Stage::Nbp => "nbp",
            Stage::Script => "script",
            Stage::Kernel => "kernel",
            Stage::Initramfs => "initramfs",
            Stage::Init => "init",
            Stage::Network => "network",
            Stage::Rootfs => "rootfs",
            Stage::Verified => "verified",
            Stage::Configured => "configured",
            Stage::SwitchRoot => "switch_root",
            Stage::Healthy => "healthy",
        })
    }
}

impl Stage {
    /// Columns of a table of attempts. Discover is their zero; an offer is as good as its ack.
    pub const COLUMNS: [(Stage, &str); 11] = [
        (Stage::Ack, "ACK"),
        (Stage::Nbp, "NBP"),
        (Stage::Script, "SCRIPT"),
        (Stage::Kernel, "KERNEL"),
        (Stage::Initramfs, "INITRD"),
        (Stage::Init, "INIT"),
        (Stage::Network, "NET"),
        (Stage::Rootfs, "ROOTFS"),
        (Stage::Verified, "VERIFIED"),
        (Stage::SwitchRoot, "SWITCH"),
        (Stage::Healthy, "HEALTHY"),
    ];
}

/// One thing that happened in an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEvent {
    /// Which step.
    pub stage: Stage,
    /// When it was first reached.
    pub at: Millis,
    /// What else is worth knowing: a file name, bytes, a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Still moving.
    Running,
    /// Reported healthy.
    Healthy,
    /// The machine said why it could not go on.
    Failed {
        /// Its words.
        reason: String,
    },
    /// No step for too long.
    Stuck {
        /// The likely cause, in words for an operator.
        cause: String,
    },
    /// The machine began another attempt before this one ended.
    Superseded,
    /// Sent to its own disk: nothing more is expected.
    Local,
    /// It has all that it fetches from here, and its image reports nothing: how it went on is not seen.
    HandedOver,
}

/// One power-on of one machine, as a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootAttempt {
    /// Its name.
    pub id: AttemptId,
    /// Whose.
    pub mac: Mac,
    /// Address it was given, once known.
    #[serde(default)]
    pub addr: Option<Ipv4Addr>,
    /// Firmware that asked.
    #[serde(default)]
    pub firmware: Option<ClientArch>,
    /// Image that its script named.
    #[serde(default)]
    pub image: Option<Digest>,
    /// Image with whose kernel and initramfs it waits in memory for an assignment (boot target `discover`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_with: Option<Digest>,
    /// The boot whose kernel started this one by kexec, without the firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kexec_from: Option<AttemptId>,
    /// Why that one.
    #[serde(default)]
    pub rule: Option<Rule>,
    /// The machine's generation when its script was rendered; 0 before.
    #[serde(default)]
    pub generation: u64,
    /// The configuration that goes with it, besides the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<AttemptConfig>,
    /// Steps, in the order in which they were first reached; at most one of each stage.
    pub stages: Vec<StageEvent>,
    /// What went wrong with a boot file that it asked for before its script: not there, broken off,
    /// timed out. The latest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_trouble: Option<String>,
    /// SHA-256 of the one-time boot token that its script carried. Never the token itself; left out
    /// of what the API shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hash: Option<Digest>,
    /// How it ended.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl BootAttempt {
    /// An attempt of which nothing is known yet.
    pub fn new(id: AttemptId, mac: Mac) -> BootAttempt {
        BootAttempt {
            id,
            mac,
            addr: None,
            firmware: None,
            image: None,
            waits_with: None,
            kexec_from: None,
            rule: None,
            generation: 0,
            config: None,
            stages: Vec::new(),
            file_trouble: None,
            token_hash: None,
            verdict: Verdict::Running,
        }
    }

    /// The furthest step so far.
    pub fn reached(&self) -> Option<Stage> {
        self.stages.iter().map(|s| s.stage).max()
    }

    /// How it ended, in words; a stuck one says where and why.
    pub fn outcome(&self) -> String {
        match &self.verdict {
            Verdict::Running => "running".to_owned(),
            Verdict::Healthy => "healthy".to_owned(),
            Verdict::Failed { reason } => format!("failed: {reason}"),
            Verdict::Stuck { cause } => {
                let at = self.reached().map_or_else(|| "the start".to_owned(), |s| s.to_string());
                format!("stuck after {at}: {cause}")
            }
            Verdict::Superseded => "superseded by a newer boot".to_owned(),
            Verdict::Local => "sent to its local disk".to_owned(),
            Verdict::HandedOver => "handed over (its image reports nothing)".to_owned(),
        }
    }

    /// When it began, if it has any step.
    pub fn began(&self) -> Option<Millis> {
        self.stages.first().map(|s| s.at)
    }

    /// Milliseconds from its beginning to a stage that it reached.
    pub fn until(&self, stage: Stage) -> Option<Millis> {
        let event = self.stages.iter().find(|s| s.stage == stage)?;
        Some(event.at - self.began()?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_stage_is_shown_as_the_api_names_it() {
        for word in ["discover", "offer", "ack", "nbp", "script", "kernel", "initramfs", "init", "network"] {
            let stage: Stage = serde_json::from_value(word.into()).unwrap();
            assert_eq!(stage.to_string(), word);
        }
        for stage in [Stage::Rootfs, Stage::Verified, Stage::SwitchRoot, Stage::Healthy] {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.to_string());
        }
    }
}
