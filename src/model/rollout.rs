use super::{BootTarget, Digest, Millis};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Moving a selection of machines to an image in waves. What each machine has come to is on its own
/// record ([`Membership`]), so that a rollout of ten thousand machines costs one small row a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its name, unique.
    pub name: String,
    /// The image that machines are moved to.
    pub to: Digest,
    /// Which machines it was started for. Who joined later is no member.
    pub selector: String,
    /// Sizes of the waves, in machines.
    pub waves: Vec<u32>,
    /// What it keeps to.
    pub limits: Limits,
    /// When machines may be moved; at any time where there is none.
    #[serde(default)]
    pub windows: Vec<Window>,
    /// Whether it waits for an operator after each wave.
    #[serde(default)]
    pub hold: bool,
    /// What happens when more machines fail than may.
    pub on_failure: OnFailure,
    /// How it is.
    pub state: RolloutState,
    /// Why, in words.
    pub why: String,
    /// The wave that it is at, from 0.
    pub wave: u32,
    /// When it was started.
    pub created: Millis,
    /// When its state changed last.
    pub changed: Millis,
}

/// What a rollout keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Machines that may fail; with one more it halts.
    pub max_failed: u32,
    /// Machines that are moved and not healthy yet, at most; 0: as many as the wave has.
    pub in_flight: u32,
    /// The same in one rack; machines without a rack count as one rack.
    pub in_flight_per_rack: u32,
    /// Longest time from a machine's first boot of the image to healthy, in seconds.
    pub deadline_seconds: u32,
    /// How long a machine must then stay healthy, in seconds.
    pub soak_seconds: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_failed: 0,
            in_flight: 0,
            in_flight_per_rack: 0,
            deadline_seconds: 1_800,
            soak_seconds: 300,
        }
    }
}

/// What happens when more machines fail than may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// No more machines are moved; those that were stay.
    #[default]
    Halt,
    /// Every machine that was moved gets back what it had.
    RollBack,
}

/// How a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// It moves machines.
    Running,
    /// An operator, or the end of a wave, holds it: machines that were moved are still followed.
    Paused,
    /// Too many machines failed.
    Halted,
    /// Too many machines failed, or an operator said so: all have back what they had.
    RolledBack,
    /// An operator ended it; what was moved stays.
    Aborted,
    /// Every wave is through.
    Done,
}

impl RolloutState {
    /// Whether it can still move machines, now or after an operator's word.
    pub fn is_open(self) -> bool {
        matches!(self, RolloutState::Running | RolloutState::Paused | RolloutState::Halted)
    }
}

impl fmt::Display for RolloutState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RolloutState::Running => "running",
            RolloutState::Paused => "paused",
            RolloutState::Halted => "halted",
            RolloutState::RolledBack => "rolled back",
            RolloutState::Aborted => "aborted",
            RolloutState::Done => "done",
        })
    }
}

/// A time of the day, in UTC, on some days of the week; it may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Bit 0 is Monday: days on which it begins.
    pub days: u8,
    /// Minutes since midnight at which it begins.
    pub from: u16,
    /// Minutes since midnight at which it ends; not after `from`: on the next day.
    pub until: u16,
}

/// A machine's part in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Which.
    pub rollout: String,
    /// In which wave, from 0.
    pub wave: u32,
    /// How far it came.
    pub phase: Phase,
    /// Since when.
    pub since: Millis,
    /// Boots that it began while it was watched after it had been healthy.
    #[serde(default)]
    pub restarts: u8,
    /// What moved it before, to be given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Moved>,
    /// Why it failed or left, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a machine came in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its wave has not come, or a limit holds it.
    Waiting,
    /// It gets the image at its next power-on.
    Moved,
    /// It boots the image.
    Booting,
    /// It was healthy, and is watched.
    Soaking,
    /// It stayed healthy.
    Done,
    /// It did not get healthy in time, or did not stay so: it has back what it had.
    Failed,
    /// It was moved, and has back what it had.
    Returned,
    /// It is no part any more: pinned, for one.
    Left,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; 8] = [
        Phase::Waiting,
        Phase::Moved,
        Phase::Booting,
        Phase::Soaking,
        Phase::Done,
        Phase::Failed,
        Phase::Returned,
        Phase::Left,
    ];

    /// Whether the machine is assigned the rollout's image.
    pub fn is_moved(self) -> bool {
        matches!(self, Phase::Moved | Phase::Booting | Phase::Soaking | Phase::Done)
    }

    /// Whether it is moved and not healthy yet: what the limits count.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Phase::Moved | Phase::Booting)
    }

    /// Whether a wave need not wait for it any more.
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Done | Phase::Failed | Phase::Returned | Phase::Left)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Waiting => "waiting",
            Phase::Moved => "moved",
            Phase::Booting => "booting",
            Phase::Soaking => "soaking",
            Phase::Done => "done",
            Phase::Failed => "failed",
            Phase::Returned => "returned",
            Phase::Left => "left",
        })
    }
}

/// The boot target that a rollout gave a machine. It outlives the rollout, until another one moves the
/// machine or the rollout is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// By which rollout.
    pub rollout: String,
    /// What it boots.
    pub target: BootTarget,
}
