//! The words of the system as types. Pure data: no tokio, axum, file, socket or clock here.
//!
//! Times are [`Millis`]: milliseconds since the Unix epoch, always handed in by the caller.

mod arch;
mod attempt;
pub mod audit;
mod change;
mod client;
mod digest;
pub mod facts;
mod image;
mod lease;
mod mac;
mod machine;
mod name;
mod nearest;
mod power;
mod profile;
mod rollout;
mod secret;
mod trust;
pub mod wire;

pub use arch::{Arch, ClientArch};
pub use attempt::{AttemptId, BootAttempt, Stage, StageEvent, Verdict};
pub use change::Change;
pub use client::{BootClient, BootMethod, ClientKind, IpxeFeatures};
pub use digest::{Digest, DigestError};
pub use facts::Facts;
pub use image::{BlobRef, Image, Manifest, RootFs, Verity};
pub use lease::{ClientKey, Lease, LeaseState};
pub use mac::{Mac, MacError};
pub use machine::{AgentOrder, BootTarget, FailingImage, Machine, MachinePatch, Rule, SelectorRule};
pub use name::{NameError, Tag};
pub use nearest::{distance, nearest};
pub use power::{BootOnce, Ipmi, Power, PowerAction, PowerFault, Reboot, Redfish};
pub use profile::{
    AttemptConfig, FileConfig, GroupConfig, MachineConfig, ProfileRecord, UserConfig, VolumeConfig,
};
pub use rollout::{Limits, Membership, Moved, OnFailure, Phase, Rollout, RolloutState, Window};
pub use secret::{SealedSecret, Secret};
pub use trust::{MAX_KEYS, Revoked, Stale, Trust, TrustRefusal, TrustedKey};

/// Milliseconds since the Unix epoch.
pub type Millis = i64;
