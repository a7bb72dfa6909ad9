use super::{
    Arch, AttemptId, ClientArch, Digest, Facts, Mac, Membership, Millis, Moved, Power, PowerFault, Reboot,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What a machine gets when it powers on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BootTarget {
    /// A pinned image; always a digest, never a tag.
    Image {
        /// The image's identity.
        digest: Digest,
    },
    /// Its own disk: the firmware's next boot entry.
    Local,
    /// No answer beyond an address: the machine is not ours to boot.
    Ignore,
    /// Wait at a screen that says who it is, until an operator assigns an image.
    Discover,
}

impl BootTarget {
    /// The target that needs no image and goes by this word.
    pub fn of_word(word: &str) -> Option<BootTarget> {
        [BootTarget::Local, BootTarget::Ignore, BootTarget::Discover]
            .into_iter()
            .find(|t| t.to_string() == word)
    }
}

impl fmt::Display for BootTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootTarget::Image { digest } => write!(f, "image {}", digest.short()),
            BootTarget::Local => f.write_str("local"),
            BootTarget::Ignore => f.write_str("ignore"),
            BootTarget::Discover => f.write_str("discover"),
        }
    }
}

/// Which rule chose the boot target. Whatever image a rule chose, one that was healthy before takes its
/// place where it fails boot after boot (`Fallback`). Precedence: the pin; then the rollout that moved it; then a selector rule; then, for a machine that
/// no operator has touched, `unknown = "ignore"` or `"discover"`; then the default; then the waiting screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The machine's own pin.
    Pin,
    /// A rollout that moved it.
    Rollout,
    /// A [`SelectorRule`] that picks it.
    Selector,
    /// The site's default.
    Default,
    /// What the rules say failed too many boots in a row: the image that was last healthy instead.
    Fallback,
    /// What the configuration's `unknown` says of a machine that no operator has touched; it goes before
    /// the default. Also the waiting screen where there is no default, after all others.
    Unknown,
}

/// What the machines that a selector picks boot, where they have no pin of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectorRule {
    /// Its name, unique.
    pub name: String,
    /// Which machines, as `fleet::Selector` reads it.
    pub selector: String,
    /// What they boot.
    pub target: BootTarget,
    /// When it was first set: of two rules with equally many conditions the older one goes first.
    pub created: Millis,
}

/// An image that a machine failed to boot, as its record has it until it boots healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingImage {
    /// Which.
    pub image: Digest,
    /// Boots of it in a row that failed.
    pub boots: u32,
    /// When the first of them did.
    pub since: Millis,
    /// The last of them.
    #[serde(default)]
    pub last: Option<AttemptId>,
    /// What became of that one, in words.
    pub reason: String,
}

/// A physical server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its first-seen MAC: the machine's name in every command and URL.
    pub mac: Mac,
    /// Operator's name for it; unique among machines where set.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Other MACs that are the same machine.
    #[serde(default)]
    pub other_macs: Vec<Mac>,
    /// SMBIOS UUID as first seen, hex, in the order the firmware sent it.
    #[serde(default)]
    pub uuid: Option<String>,
    /// SMBIOS serial number, as the machine's iPXE or `init` told it.
    #[serde(default)]
    pub serial: Option<String>,
    /// SMBIOS manufacturer and product.
    #[serde(default)]
    pub product: Option<String>,
    /// Firmware as seen at its last boot.
    #[serde(default)]
    pub firmware: Option<ClientArch>,
    /// Kernel architecture that follows from the firmware.
    #[serde(default)]
    pub arch: Option<Arch>,
    /// Rack, for spreading and selecting.
    #[serde(default)]
    pub rack: Option<String>,
    /// Free labels, for selecting.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its own boot target.
    #[serde(default)]
    pub pin: Option<BootTarget>,
    /// NBP file that overrides the firmware's usual one, as in `ipxe.efi`.
    #[serde(default)]
    pub nbp: Option<String>,
    /// How it is switched on and off.
    #[serde(default, skip_serializing_if = "Power::is_manual")]
    pub power: Power,
    /// What its BMC did not do of late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_fault: Option<PowerFault>,
    /// That it is to boot anew, for the rollout that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Reboot>,
    /// Counts changes of what it would boot: a script carries it, so that one boot can't straddle
    /// a re-pointing.
    pub generation: u64,
    /// First packet; 0 for one that an operator named before it was ever heard of.
    pub first_seen: Millis,
    /// Latest packet or report, coarse: written at most once a minute.
    pub last_seen: Millis,
    /// Image that it last reported healthy with.
    #[serde(default)]
    pub last_healthy: Option<Digest>,
    /// Image of the boot it is in or last made, so that `image rm` can refuse it.
    #[serde(default)]
    pub running: Option<Digest>,
    /// Images that it failed to boot since they were last healthy on it; a few, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<FailingImage>,
    /// What a rollout has it boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// Its part in the latest rollout that it was selected for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Membership>,
    /// What its agent is to do, in the boot that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<AgentOrder>,
    /// What its `init` told of it. Shared, since a machine is copied for each change of it.
    #[serde(default, with = "shared", skip_serializing_if = "Option::is_none")]
    pub facts: Option<Arc<Facts>>,
}

/// What an operator, or a rollout, wants a machine's agent to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentOrder {
    /// The boot that it is meant for: another one has no use for it.
    pub boot: AttemptId,
    /// Start what the machine is assigned by kexec, instead of a restart through the firmware.
    pub kexec: bool,
    /// When it was given.
    pub at: Millis,
}

/// Facts are written as if they were not shared.
mod shared {
    use super::{Arc, Deserialize, Facts, Serialize};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(facts: &Option<Arc<Facts>>, s: S) -> Result<S::Ok, S::Error> {
        facts.as_deref().serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Arc<Facts>>, D::Error> {
        Ok(Option::<Facts>::deserialize(d)?.map(Arc::new))
    }
}

/// What to change of a machine. What is `None` stays; an inner `None` clears.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachinePatch {
    /// Operator's name for it.
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Option<String>>,
    /// Its rack.
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub rack: Option<Option<String>>,
    /// Its NBP instead of the firmware's usual one.
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub nbp: Option<Option<String>>,
    /// All its other MACs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_macs: Option<Vec<Mac>>,
    /// Labels to set, or with `null` to take away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
}

/// Tells `null` (clear) from a missing field (leave).
fn some<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(d).map(Some)
}

impl Machine {
    /// Whether it is pinned to that image, or booted it and has not left it.
    pub fn is_on(&self, image: Digest) -> bool {
        self.running == Some(image) || self.pin == Some(BootTarget::Image { digest: image })
    }

    /// Whether it was ever heard of.
    pub fn was_seen(&self) -> bool {
        self.last_seen > 0
    }

    /// Whether that is its SMBIOS UUID, in either order of the bytes of the first three groups: firmware is
    /// at odds on it.
    pub fn has_uuid(&self, uuid: &[u8; 16]) -> bool {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *uuid;
        let hex = |first: [u8; 8]| first.iter().chain(&rest).map(|b| format!("{b:02x}")).collect::<String>();
        let ours = self.uuid.as_deref().unwrap_or_default().to_ascii_lowercase();
        [[a, b, c, d, e, f, g, h], [d, c, b, a, f, e, h, g]].into_iter().any(|first| ours == hex(first))
    }

    /// What people call it: its hostname, else its MAC.
    pub fn name(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.mac.to_string())
    }

    /// A machine of which nothing but its MAC is known.
    pub fn new(mac: Mac, now: Millis) -> Machine {
        Machine {
            mac,
            hostname: None,
            other_macs: Vec::new(),
            uuid: None,
            serial: None,
            product: None,
            firmware: None,
            arch: None,
            rack: None,
            labels: BTreeMap::new(),
            pin: None,
            nbp: None,
            power: Power::Manual,
            power_fault: None,
            reboot: None,
            generation: 0,
            first_seen: now,
            last_seen: now,
            last_healthy: None,
            running: None,
            failing: Vec::new(),
            moved: None,
            part: None,
            order: None,
            facts: None,
        }
    }
}
