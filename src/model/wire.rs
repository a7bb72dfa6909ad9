//! Shapes of the operators' API that are not words of their own: what its server and its client
//! must agree about.

use super::{BootTarget, Digest, Manifest, Millis, SelectorRule, Tag};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where every path of the API begins.
pub const API_PREFIX: &str = "/api/v1";

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
