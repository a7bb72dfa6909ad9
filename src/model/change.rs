use super::{
    AttemptId, BootAttempt, BootTarget, Lease, Mac, Machine, ProfileRecord, Rollout, SealedSecret,
    SelectorRule, audit::AuditRecord,
};
use std::net::Ipv4Addr;

/// One change of state, as the store makes it durable. Pure code returns these; only the
/// provisioner hands them to the store, and a reply leaves after they are on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Insert or replace the lease of `lease.addr`.
    Lease(Lease),
    /// Forget the lease of this address.
    LeaseGone(Ipv4Addr),
    /// Insert or replace a machine.
    Machine(Box<Machine>),
    /// Forget a machine.
    MachineGone(Mac),
    /// Insert or replace a boot attempt.
    Attempt(BootAttempt),
    /// Forget a boot attempt: it fell out of the bounds.
    AttemptGone(AttemptId),
    /// Set or clear the site's default boot target.
    Default(Option<BootTarget>),
    /// Insert or replace a selector rule.
    Rule(SelectorRule),
    /// Forget the selector rule of this name.
    RuleGone(String),
    /// Insert or replace a rollout.
    Rollout(Rollout),
    /// Forget the rollout of this name.
    RolloutGone(String),
    /// Insert or replace a secret.
    Secret(SealedSecret),
    /// Forget the secret of this name.
    SecretGone(String),
    /// Append a record to the audit log, behind the one with the number before.
    Audit(Box<AuditRecord>),
    /// Insert or replace a profile.
    Profile(Box<ProfileRecord>),
    /// Forget the profile of this name.
    ProfileGone(String),
}
