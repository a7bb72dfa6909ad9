//! What a change is in the audit log: the state before and after go in, a record comes out. Pure.
//!
//! Records are made where memory is changed (`State::put` and its like), from what differs: so nothing that
//! is in the log can change without a record, whoever asks for it. What a machine says of itself
//! (firmware, product, …) may bring it under another rule, too; its boot attempts tell that, since anybody
//! on the link can say such things as often as he likes, and the log is kept for ever.

use crate::model::{
    BootTarget, Digest, Machine, ProfileRecord, Rollout, SealedSecret, SelectorRule,
    audit::{About, Deed, Note},
};

/// A target as the log writes it.
fn text(target: &BootTarget) -> String {
    match target {
        BootTarget::Image { digest } => digest.to_string(),
        other => other.to_string(),
    }
}

fn described(before: &Machine, after: &Machine) -> bool {
    before.hostname != after.hostname
        || before.rack != after.rack
        || before.nbp != after.nbp
        || before.other_macs != after.other_macs
        || before.labels != after.labels
        || before.power != after.power
}

/// Whether a machine's record may differ in what the log tells. Asked first, since what a machine boots
/// costs a look at every rule, and most changes are of the kind "was heard of".
pub fn may_tell(before: &Machine, after: &Machine) -> bool {
    before.pin != after.pin
        || before.moved != after.moved
        || before.failing != after.failing
        || before.last_healthy != after.last_healthy
        || described(before, after)
}

/// What a change of a machine is; `from` and `to` are what it boots before and after.
pub fn of_machine(before: &Machine, after: &Machine, from: &BootTarget, to: &BootTarget) -> Option<Note> {
    let fell_back = || after.failing.iter().rev().find(|f| text(from) == f.image.to_string());
    let (what, why) = match () {
        () if before.pin != after.pin => {
            (if after.pin.is_some() { Deed::Pinned } else { Deed::Unpinned }, None)
        }
        () if before.moved != after.moved => {
            let part = after.part.as_ref().or(before.part.as_ref());
            let moved = after.moved.is_some() && after.part.as_ref().is_some_and(|p| p.phase.is_moved());
            let rollout =
                part.map_or_else(String::new, |p| format!("rollout {}, wave {}", p.rollout, p.wave + 1));
            let reason = part.and_then(|p| p.reason.as_ref()).filter(|_| !moved);
            let why = reason.map_or(rollout.clone(), |r| format!("{rollout}: {r}"));
            (if moved { Deed::Moved } else { Deed::Returned }, Some(why))
        }
        () if described(before, after) => (Deed::Set, None),
        () if from == to => return None,
        () => match fell_back() {
            Some(f) => (
                Deed::FellBack,
                Some(format!("{} boots in a row failed, the last one {}", f.boots, f.reason)),
            ),
            None => (Deed::Retried, None),
        },
    };
    let mut noted = Note::new(About::Machine(after.mac), what);
    noted.name = after.hostname.clone().or_else(|| before.hostname.clone());
    noted.why = why;
    fields(&mut noted, before, after);
    noted.change("boots", Some(text(from)), Some(text(to)));
    Some(noted)
}

fn fields(noted: &mut Note, before: &Machine, after: &Machine) {
    noted.change("pin", before.pin.as_ref().map(text), after.pin.as_ref().map(text));
    let moved = |m: &Machine| m.moved.as_ref().map(|m| text(&m.target));
    noted.change("moved", moved(before), moved(after));
    let rollout = |m: &Machine| m.moved.as_ref().map(|m| m.rollout.clone());
    noted.change("rollout", rollout(before), rollout(after));
    noted.change("hostname", before.hostname.clone(), after.hostname.clone());
    noted.change("rack", before.rack.clone(), after.rack.clone());
    noted.change("nbp", before.nbp.clone(), after.nbp.clone());
    let others = |m: &Machine| {
        let all: Vec<String> = m.other_macs.iter().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join(" "))
    };
    noted.change("other_macs", others(before), others(after));
    // As the API has it. It names a secret, and holds none.
    let power = |m: &Machine| serde_json::to_string(&m.power).ok().filter(|_| !m.power.is_manual());
    noted.change("power", power(before), power(after));
    for label in before.labels.keys().chain(after.labels.keys()) {
        let value = |m: &Machine| m.labels.get(label).cloned();
        noted.change(format!("label.{label}"), value(before), value(after));
    }
}

/// A machine was forgotten, with all that an operator or a rollout had said of it. `blank` is what is
/// known of it then.
pub fn of_forgotten(before: &Machine, blank: &Machine, from: &BootTarget, to: &BootTarget) -> Note {
    let mut noted = Note::new(About::Machine(before.mac), Deed::Forgotten);
    noted.name = before.hostname.clone();
    fields(&mut noted, before, blank);
    noted.change("boots", Some(text(from)), Some(text(to)));
    noted
}

/// A machine boots something else since a rule or the default changed.
pub fn of_repointed(machine: &Machine, from: &BootTarget, to: &BootTarget) -> Note {
    let mut noted = Note::new(About::Machine(machine.mac), Deed::Repointed);
    noted.name = machine.hostname.clone();
    noted.change("boots", Some(text(from)), Some(text(to)));
    noted
}

/// The default changed.
pub fn of_default(before: Option<&BootTarget>, after: Option<&BootTarget>) -> Note {
    let mut noted = Note::new(About::Default, Deed::Default);
    noted.change("target", before.map(text), after.map(text));
    noted
}

/// A rule was set, changed or removed.
pub fn of_rule(name: &str, before: Option<&SelectorRule>, after: Option<&SelectorRule>) -> Note {
    let what = if after.is_some() { Deed::RuleSet } else { Deed::RuleRemoved };
    let mut noted = Note::new(About::Rule(name.to_owned()), what);
    noted.change("target", before.map(|r| text(&r.target)), after.map(|r| text(&r.target)));
    noted.change("selector", before.map(|r| r.selector.clone()), after.map(|r| r.selector.clone()));
    noted.change("created", before.map(|r| r.created.to_string()), after.map(|r| r.created.to_string()));
    noted
}

/// A profile was set, changed or removed. Its document is named by its digest: it may be long.
pub fn of_profile(name: &str, before: Option<&ProfileRecord>, after: Option<&ProfileRecord>) -> Note {
    let what = if after.is_some() { Deed::ProfileSet } else { Deed::ProfileRemoved };
    let mut noted = Note::new(About::Profile(name.to_owned()), what);
    noted.change("selector", before.map(|p| p.selector.clone()), after.map(|p| p.selector.clone()));
    let document = |p: &ProfileRecord| Digest::of(p.document.as_bytes()).to_string();
    noted.change("document", before.map(document), after.map(document));
    noted
}

/// A secret was set, replaced or removed. Sealing draws chance: the digest of a seal tells that the secret was
/// set again, and nothing of its value.
pub fn of_secret(name: &str, before: Option<&SealedSecret>, after: Option<&SealedSecret>) -> Note {
    let what = if after.is_some() { Deed::SecretSet } else { Deed::SecretRemoved };
    let mut noted = Note::new(About::Secret(name.to_owned()), what);
    let seal = |s: &SealedSecret| Digest::of(s.sealed.as_bytes()).to_string();
    noted.change("seal", before.map(seal), after.map(seal));
    noted
}

/// A rollout was started, changed or removed.
pub fn of_rollout(name: &str, before: Option<&Rollout>, after: Option<&Rollout>) -> Note {
    let what = match (before, after) {
        (None, _) => Deed::RolloutStarted,
        (Some(_), Some(_)) => Deed::RolloutChanged,
        (Some(_), None) => Deed::RolloutRemoved,
    };
    let mut noted = Note::new(About::Rollout(name.to_owned()), what);
    let mut change = |key: &str, value: &dyn Fn(&Rollout) -> String| {
        noted.change(key, before.map(value), after.map(value));
    };
    change("to", &|r| r.to.to_string());
    change("selector", &|r| r.selector.clone());
    change("state", &|r| r.state.to_string());
    change("wave", &|r| (r.wave + 1).to_string());
    change("max_failed", &|r| r.limits.max_failed.to_string());
    noted.why = after.map(|r| r.why.clone());
    noted
}
