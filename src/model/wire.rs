//! Shapes of the operators' API that are not words of their own: what its server and its client
//! must agree about.

use super::{
    BootTarget, Digest, Limits, Mac, MachineConfig, Manifest, Millis, OnFailure, Phase, PowerAction, Rollout,
    SelectorRule, Tag, audit::Note,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where every path of the API begins.
pub const API_PREFIX: &str = "/api/v1";
/// Header of a request that changes something: the name of who sends it, as that one says.
pub const OPERATOR_HEADER: &str = "pristine-operator";
/// Header of a request that changes something: why, in words.
pub const MESSAGE_HEADER: &str = "pristine-message";

/// Body of every answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names that were probably meant, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<String>,
    /// What is wrong in the document or the rows that were sent, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// Chunks of an upload that are still missing: ranges of numbers in its inventory, without their ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<[u64; 2]>,
}

/// Something that is wrong in a document, or in rows of machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where, as in `rule[0].select`, `machine[17].hostname` or `images."web:1"`.
    pub path: String,
    /// Column within the text that stands there, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// Something wrong at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { path: path.into(), column: None, message: message.into() }
    }
}

/// What many changes at once are, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Number of the audit log's newest record: where this was planned, or what it came to.
    pub revision: u64,
    /// Whether they were made.
    pub applied: bool,
    /// Each of them, as the audit log has it.
    pub changes: Vec<Note>,
}

/// Body of a request that assigns a boot target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assign {
    /// An image (`name:version` or a digest), or `local`, `ignore` or `discover`.
    pub target: String,
}

/// What is assigned: a machine's pin or the site's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The boot target; `None` where there is none.
    pub target: Option<BootTarget>,
    /// Tag that its image was imported as.
    #[serde(default)]
    pub image: Option<Tag>,
}

/// Body of a request that sets a selector rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRule {
    /// Which machines, as in `rack=a1 and not label.role=db`.
    pub selector: String,
    /// An image (`name:version` or a digest), or `local`, `ignore` or `discover`.
    pub target: String,
}

/// A selector rule, and what it means now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// The rule.
    #[serde(flatten)]
    pub rule: SelectorRule,
    /// Tag that its image was imported as.
    #[serde(default)]
    pub image: Option<Tag>,
    /// Machines that boot by it: it picks them, they have no pin, and no rule before it picks them.
    pub machines: usize,
}

/// Body of a request that starts a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// Its name; left out: the image's, with a number where that is taken.
    #[serde(default)]
    pub name: Option<String>,
    /// Which machines, as in `rack in (a1, a2)`. Those with a pin are left out.
    pub selector: String,
    /// The image: `name:version` or a digest.
    pub to: String,
    /// Sizes of the waves, as in `1`, `10%` and `rest`.
    pub waves: Vec<String>,
    /// What it keeps to.
    #[serde(default)]
    pub limits: Limits,
    /// When machines may be moved, in UTC, as in `mon-fri 22:00-04:00`; at any time where there is none.
    #[serde(default)]
    pub windows: Vec<String>,
    /// Wait for an operator after each wave.
    #[serde(default)]
    pub hold: bool,
    /// What happens when more machines fail than may.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// Body of a request that changes how a rollout goes on, as in `{"order": "pause"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum RolloutOrder {
    /// Move no more machines for now.
    Pause,
    /// Go on.
    Resume {
        /// Machines that may fail from now on, with those that did.
        #[serde(default)]
        max_failed: Option<u32>,
    },
    /// Begin the next wave now.
    Promote,
    /// End it; what was moved stays.
    Abort,
    /// End it, and give back what they had to all that were moved.
    RollBack,
}

/// A rollout, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// The rollout.
    #[serde(flatten)]
    pub rollout: Rollout,
    /// Tag that its image was imported as.
    #[serde(default)]
    pub image: Option<Tag>,
    /// Machines by phase, for each wave.
    pub phases: Vec<BTreeMap<Phase, u32>>,
    /// Machines that failed or left, the first ones.
    pub troubles: Vec<RolloutTrouble>,
}

/// A machine that failed or left a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutTrouble {
    /// Which.
    pub mac: Mac,
    /// Its name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// `failed` or `left`.
    pub phase: Phase,
    /// Why.
    pub reason: String,
}

/// Body of a request that does something to a machine's power, as in `{"action": "cycle"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerOrder {
    /// What.
    pub action: PowerAction,
}

/// A machine's power, as its BMC says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerStatus {
    /// `On`, `Off`, or what else the BMC says, as in `PoweringOn`.
    pub state: String,
    /// From where it boots once, as in `Pxe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_once: Option<String>,
    /// Maker and model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Path of its ComputerSystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Kinds of reset that the BMC takes, where it says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resets: Vec<String>,
}

/// The certificate that a machine's BMC shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerCertificate {
    /// Where.
    pub url: String,
    /// SHA-256 of the one that it shows now.
    pub shown: Digest,
    /// SHA-256 of the one that is pinned.
    #[serde(default)]
    pub pinned: Option<Digest>,
}

/// A secret as lists show it: never its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretView {
    /// Its name.
    pub name: String,
    /// Bytes of its value.
    pub bytes: usize,
    /// When it was set.
    pub changed: Millis,
    /// False where the key in place is not the one that sealed it.
    pub readable: bool,
}

/// Body of a request that sets a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetProfile {
    /// Which machines, as in `rack=a1 and not label.role=db`.
    pub selector: String,
    /// What they get: TOML.
    pub document: String,
}

/// A profile, and whom it is for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileView {
    /// Its name.
    pub name: String,
    /// Which machines.
    pub selector: String,
    /// When it was first set.
    pub created: Millis,
    /// When it was last set.
    pub changed: Millis,
    /// Machines that it picks.
    pub machines: usize,
    /// Length of its document.
    pub bytes: usize,
    /// Its document; left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
}

/// What a machine would get besides its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigView {
    /// Which machine.
    pub mac: Mac,
    /// The image that it would boot.
    pub image: Tag,
    /// Profiles that it is made of, the one that counts most first.
    pub profiles: Vec<String>,
    /// As the record of a boot with it would have it; `None` where no profile picks the machine.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// What of it the image can't be given, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// All of it.
    pub config: MachineConfig,
}

impl ConfigView {
    /// Of a machine that no profile picks.
    pub fn none(mac: Mac, image: Tag) -> ConfigView {
        let (profiles, config) = (Vec::new(), MachineConfig::default());
        ConfigView { mac, image, profiles, digest: None, left_out: None, config }
    }
}

/// An image of the service's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// The image's identity.
    pub digest: Digest,
    /// Tags that point to it now; none after they were moved.
    pub tags: Vec<Tag>,
    /// Its manifest; `None` where that can't be read.
    pub manifest: Option<Manifest>,
    /// Bytes of all its blobs.
    pub size: u64,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Something that an operator should look at. It is there for as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about, as in `eth1`.
    pub about: String,
    /// What is wrong, and what to do.
    pub text: String,
    /// Since when.
    pub since: Millis,
}

/// How the service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the running program.
    pub version: String,
    /// When it started.
    pub started: Millis,
    /// Whole seconds since.
    pub uptime_seconds: u64,
    /// What an operator should look at now; empty when all is well.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// Counters by part: `provisioner`, `dhcp`, `tftp`, `http`, `api`, `store`.
    pub counters: BTreeMap<String, serde_json::Value>,
}

/// What a service answers to the inventory of an image that is pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadBegun {
    /// The image's digest.
    pub image: Digest,
    /// It is there already.
    pub existed: bool,
    /// Chunks that are to be sent: ranges of numbers in the inventory, without their ends.
    pub missing: Vec<[u64; 2]>,
    /// Their bytes.
    pub bytes: u64,
}

/// What a service answers to chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadTaken {
    /// How many it took.
    pub chunks: usize,
}

/// What a service answers when a pushed image is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadDone {
    /// The image's digest.
    pub image: Digest,
    /// It was there before.
    pub existed: bool,
    /// What its tag pointed to before.
    pub moved_from: Option<Digest>,
    /// Signatures that came along and were new.
    pub signatures: usize,
}

/// Ascending numbers as ranges without their ends.
pub fn ranges(numbers: &[usize]) -> Vec<[u64; 2]> {
    let mut out: Vec<[u64; 2]> = Vec::new();
    for n in numbers.iter().map(|n| *n as u64) {
        match out.last_mut() {
            Some([_, end]) if *end == n => *end += 1,
            _ => out.push([n, n + 1]),
        }
    }
    out
}

/// The numbers in such ranges that are below `most`, ascending.
pub fn unranged(ranges: &[[u64; 2]], most: usize) -> Vec<usize> {
    let within = |n: &u64| usize::try_from(*n).unwrap_or(most).min(most);
    let numbers = ranges.iter().flat_map(|[from, end]| within(from)..within(end));
    numbers.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_numbers() {
        for (numbers, wanted) in
            [(vec![], vec![]), (vec![0, 1, 2, 7], vec![[0, 3], [7, 8]]), (vec![4], vec![[4, 5]])]
        {
            assert_eq!(ranges(&numbers), wanted);
            assert_eq!(unranged(&wanted, 8), numbers);
        }
        assert_eq!(unranged(&[[2, u64::MAX], [0, 1], [3, 1]], 4), [0, 2, 3]);
    }
}
