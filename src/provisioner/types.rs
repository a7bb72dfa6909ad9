//! What goes in and comes out of the provisioner.

pub use crate::model::MachinePatch;
use crate::{
    dhcp,
    model::{BootTarget, ClientArch, Digest, Lease, Machine, Rule, Stage, Tag, wire::Problem},
    netboot::Roots,
    power::PowerError,
    store::{db::DbError, vault::VaultError},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What machines get that no operator has touched: no pin, hostname, rack or label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// An address at most, whatever the site's default is.
    Ignore,
    /// The site's default like every other machine; a waiting screen where there is none.
    #[default]
    Default,
    /// A screen that waits for an operator, whatever the site's default is.
    Discover,
}

/// What keeps the tables small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Machines on record.
    pub machines: usize,
    /// MACs seen that hold no lease and got no script yet, in memory only; the one longest unheard of
    /// makes room.
    pub strangers: usize,
    /// Boot attempts kept of each machine.
    pub attempts_per_machine: usize,
    /// Boot attempts kept in all.
    pub attempts: usize,
    /// Boot scripts that one machine gets in a minute.
    pub scripts_per_minute: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            machines: 100_000,
            strangers: 4_096,
            attempts_per_machine: 20,
            attempts: 100_000,
            scripts_per_minute: 30,
        }
    }
}

/// How the provisioner decides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Subnets, pools, reservations.
    pub site: dhcp::Site,
    /// What unknown machines get.
    pub unknown: Unknown,
    /// Table bounds.
    pub bounds: Bounds,
    /// Only images that a trusted key signed boot, and can be assigned.
    pub require_signature: bool,
    /// Boots in a row that an image may fail on a machine before its last good one takes its place; 0:
    /// never.
    pub fallback_after: u32,
    /// Image with whose kernel and initramfs machines wait for an assignment; the waiting screen without one.
    pub discover_image: Option<String>,
    /// How the roots of native images come.
    pub roots: Roots,
    /// File of the key that secrets are sealed with; `None`: [`SECRETS_KEY`] in the state folder.
    pub secrets_key: Option<std::path::PathBuf>,
}

/// Name of the secrets' key in the state folder.
pub const SECRETS_KEY: &str = "secrets.key";

/// Answer to a request for a boot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileAnswer {
    /// Its bytes.
    Found(Bytes),
    /// No such file: to be said fast, shim asks for several that hardly anybody has.
    NotFound,
    /// There may be one, but not for this client.
    Refused(String),
}

/// How a transfer of a boot file ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferOutcome {
    /// The client has the whole file.
    Complete {
        /// Its size.
        bytes: u64,
    },
    /// The client only asked for the size (`tsize`, then ERROR 8): normal for edk2.
    Probe,
    /// The client gave up.
    Aborted {
        /// Bytes that it had.
        at: u64,
        /// Its words.
        why: String,
    },
    /// The client fell silent.
    TimedOut {
        /// Bytes that it had.
        at: u64,
    },
}

/// What a machine's iPXE says of itself when it asks for its script; only `mac` is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptQuery {
    /// The NIC that boots.
    pub mac: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// SMBIOS serial number.
    pub serial: String,
    /// SMBIOS manufacturer.
    pub manufacturer: String,
    /// SMBIOS product.
    pub product: String,
    /// `efi` or `pcbios`.
    pub platform: String,
    /// iPXE's own architecture: `i386`, `x86_64`, `arm64`, …
    pub buildarch: String,
}

impl ScriptQuery {
    /// The UUID, unless it says that there is none (SMBIOS 7.2.1: all zeros or all ones).
    pub fn uuid(&self) -> Option<[u8; 16]> {
        let hex: String = self.uuid.chars().filter(|c| *c != '-').collect();
        let digits = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let uuid = u128::from_str_radix(&hex, 16).ok().filter(|_| digits)?.to_be_bytes();
        Some(uuid).filter(|u| *u != [0; 16] && *u != [0xff; 16])
    }
}

/// What a booting machine says, as JSON: `{"stage":"rootfs","detail":"…"}` or `{"failed":"…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Report {
    /// A stage is reached.
    Stage {
        /// Which.
        stage: Stage,
        /// What else is worth knowing.
        #[serde(default)]
        detail: Option<String>,
    },
    /// It can't go on.
    Failed {
        /// Why, in its words.
        failed: String,
    },
}

/// Why a script was not rendered. Where the machine can be told more on its console, a script says
/// so instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// No MAC, or one that no machine can own.
    #[error("`{0}` is not a MAC address of a machine: the script is asked for with ?mac=${{net0/mac}}")]
    BadMac(String),
    /// More scripts than any boot needs.
    #[error("{0} asked for too many scripts within a minute: it is refused until the minute is over")]
    TooMany(crate::model::Mac),
    /// Another host asks in its name.
    #[error(
        "{mac} holds {holds}, and {peer} asks for its script: is there NAT between, or another machine with this MAC?"
    )]
    NotItsAddress {
        /// Whose script was asked for.
        mac: crate::model::Mac,
        /// An address that it has from here.
        holds: std::net::Ipv4Addr,
        /// Who asked.
        peer: std::net::Ipv4Addr,
    },
    /// The table of machines is full.
    #[error("{0} machines are on record, and no more fit: forget some, or raise bounds.machines")]
    TableFull(usize),
    /// The attempt could not be made durable, so the machine must not boot by it.
    #[error("the boot could not be recorded: {0}")]
    NotSaved(#[from] DbError),
    /// This host can't make random numbers.
    #[error("no randomness for a boot token: {0}")]
    NoRandomness(String),
    /// A fault of ours.
    #[error("the boot script could not be rendered: {0}")]
    Render(#[from] crate::netboot::ScriptError),
}

/// Why a report was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// 401: no boot has this token.
    #[error("unknown boot token: it belongs to no boot on record")]
    UnknownToken,
    /// 401: its boot is over.
    #[error("this boot token is dead: its boot has {0}")]
    DeadToken(&'static str),
    /// 409: said before, and kept as it was said first.
    #[error("already reported")]
    Already,
    /// 400: a stage that the service sees by itself.
    #[error(
        "{0:?} can't be reported, only init, network, rootfs, verified, configured, switch_root and healthy"
    )]
    NotReportable(Stage),
    /// 503: this host can't make random numbers.
    #[error("no randomness for a boot token: {0}")]
    NoRandomness(String),
    /// 503: it could not be made durable; report it again.
    #[error("the report could not be recorded: {0}")]
    NotSaved(#[from] DbError),
}

/// What a machine's `init` says when it asks for its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConfigQuery {
    /// 32 hex digits that it chose for this boot, so that it may ask again where an answer was lost.
    pub nonce: String,
}

/// Why a configuration was not given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// 401: no boot has this token.
    #[error("unknown boot token: it belongs to no boot on record")]
    UnknownToken,
    /// 401: its boot is over, or past the point.
    #[error("this boot token is dead: its boot has {0}")]
    DeadToken(&'static str),
    /// 403: another host asks.
    #[error("{0}")]
    NotItsAddress(String),
    /// 400: no number, or one of the wrong form.
    #[error("no configuration without a nonce of 32 hex digits")]
    BadNonce,
    /// 409: it was given out for this boot, to one who named another number.
    #[error("the configuration of this boot was given out already: it is given once a boot")]
    Taken,
    /// 409: it is not what the boot script promised.
    #[error(
        "the configuration of this boot was changed after its boot script was made ({0}): the machine must start over to get the new one"
    )]
    Changed(String),
    /// 409: its secrets can't be put into it.
    #[error("the secrets of this machine's configuration can't be given out: {0}")]
    Secrets(String),
    /// 503: it could not be made durable; ask again.
    #[error("the delivery could not be recorded: {0}")]
    NotSaved(#[from] DbError),
}

/// Why an operator's command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No machine has this MAC or hostname.
    #[error("no machine `{name}`{}. A machine is named by a MAC or by its hostname; see `pristine machine list`", near(.nearest))]
    NoMachine {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// No such image, with the nearest names.
    #[error("{0}")]
    NoImage(String),
    /// No selector rule has this name.
    #[error("no rule `{name}`{}; see `pristine rule list`", near(.nearest))]
    NoRule {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// No rollout has this name.
    #[error("no rollout `{name}`{}; see `pristine rollout list`", near(.nearest))]
    NoRollout {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// No secret has this name.
    #[error("no secret `{name}`{}; see `pristine secret list`", near(.nearest))]
    NoSecret {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// A machine's BMC does not do what it is asked to.
    #[error("{machine}: {error}")]
    Power {
        /// Name of the machine.
        machine: String,
        /// Why.
        error: PowerError,
    },
    /// No profile has this name.
    #[error("no profile `{name}`{}; see `pristine profile list`", near(.nearest))]
    NoProfile {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// Secrets can't be sealed or opened now.
    #[error("{0}")]
    Vault(#[from] VaultError),
    /// It contradicts what is.
    #[error("{0}")]
    Conflict(String),
    /// The image doesn't fit the machine.
    #[error(
        "image {image} is for {image_arch}, but {machine} is {machine_arch}: pin an image for {machine_arch}"
    )]
    WrongArch {
        /// Tag.
        image: Tag,
        /// Its arch.
        image_arch: crate::model::Arch,
        /// Which machine.
        machine: crate::model::Mac,
        /// Its arch.
        machine_arch: crate::model::Arch,
    },
    /// Nobody whom this site trusts vouches for the image.
    #[error("{0}")]
    NotSigned(String),
    /// A value that can't be.
    #[error("{0}")]
    Bad(String),
    /// What is wrong in a document or in rows, each with its place.
    #[error("{}", problems_in_words(.0))]
    Problems(Vec<Problem>),
    /// Another machine has that hostname or MAC.
    #[error("{what} is already machine {by}: change that one first")]
    Taken {
        /// Hostname or MAC.
        what: String,
        /// Who has it.
        by: crate::model::Mac,
    },
    /// The table of machines is full.
    #[error("{0} machines are on record, and no more fit: forget some, or raise bounds.machines")]
    TableFull(usize),
    /// The image store can't be read.
    #[error("{0}")]
    Store(String),
    /// It could not be made durable and was undone.
    #[error("nothing was changed: {0}")]
    NotSaved(#[from] DbError),
}

fn problems_in_words(problems: &[Problem]) -> String {
    let more = match problems.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let first = problems.first().map_or_else(String::new, |p| format!("{}: {}", p.path, p.message));
    format!("{first}{more}: nothing was changed")
}

fn near(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!("; near it: {}", names.join(", ")),
    }
}

/// What a machine would get now, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The machine, as on record; one never seen has only its MAC.
    pub machine: Machine,
    /// False for a machine that was never heard of, be it on record or not.
    pub seen: bool,
    /// What it is assigned.
    pub target: BootTarget,
    /// By which rule.
    pub rule: Rule,
    /// Tag of the assigned image.
    pub image: Option<Tag>,
    /// In words.
    pub why: String,
    /// What the rules say, where the last good image takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<super::InsteadOf>,
    /// Why it would not boot it.
    pub refused: Option<String>,
    /// Firmware of its last boot, which the NBP hangs on.
    pub firmware: Option<ClientArch>,
    /// Boot program (a file name) that this firmware would be given.
    pub nbp: Option<String>,
    /// Profiles that its configuration is made of, the one that counts most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Its leases.
    pub leases: Vec<Lease>,
}

/// What the site's default can be set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// What is pinned now.
    pub target: BootTarget,
    /// Tag of its image.
    pub image: Option<Tag>,
    /// The image's identity.
    pub digest: Option<Digest>,
}

/// Counters since the start, and table sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Machines on record.
    pub machines: usize,
    /// MACs seen that are not on record yet.
    pub strangers: usize,
    /// Leases in the table, offers left out.
    pub leases: usize,
    /// Boot attempts on record.
    pub attempts: usize,
    /// DHCP replies, by kind.
    pub offers: u64,
    /// ACKs.
    pub acks: u64,
    /// NAKs.
    pub naks: u64,
    /// DHCP requests that got no reply, by reason.
    pub silent: BTreeMap<String, u64>,
    /// Replies withheld since their changes could not be made durable.
    pub not_saved: u64,
    /// ACKs for the rest of the lease as it is on disk, since a longer one could not be made durable.
    pub acks_shortened: u64,
    /// Boot scripts given out before they were on disk, since it took nothing.
    pub scripts_unsaved: u64,
    /// Changes that wait for a disk that takes nothing.
    pub unsaved: usize,
    /// Boot files sent whole.
    pub files: u64,
    /// Transfers that broke off (probes left out).
    pub files_broken: u64,
    /// Boot scripts rendered.
    pub scripts: u64,
    /// Reports accepted.
    pub reports: u64,
    /// Reports refused.
    pub reports_refused: u64,
    /// Orders to reboot a machine that its BMC took.
    pub reboots: u64,
    /// Those that failed.
    pub reboots_failed: u64,
    /// Newcomers that the full table of machines had no room for.
    pub table_full: u64,
    /// Durable transactions.
    pub commits: u64,
    /// Transactions that failed.
    pub commit_failures: u64,
}
