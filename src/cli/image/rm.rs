//! `pristine image rm`.

use super::mib;
use crate::{
    cli::{Context, Outcome},
    model::{BootTarget, Digest, Machine, Tag},
    store::{ImageStore, db::Db, images::Removed},
};
use serde_json::{Value, json};
use std::path::Path;

/// `discover` is the configuration's `discover_image`: what it names stays.
pub(super) fn run(
    references: &[String],
    discover: Option<&str>,
    state_dir: &Path,
    store: &ImageStore,
    context: &Context,
) -> Outcome {
    let mut removed = Vec::new();
    for reference in references {
        let hangs_on = |digest| {
            let mut by = in_use(state_dir, digest)?;
            let waits = discover.filter(|name| store.resolve(name).is_ok_and(|image| image.digest == digest));
            by.extend(waits.map(|_| "discover_image names it: machines wait in it".to_owned()));
            Ok(by)
        };
        removed.push(store.remove(reference, hangs_on)?);
    }
    let value: Vec<Value> = removed
        .iter()
        .map(|r| json!({ "digest": r.digest, "tags": r.tags, "blobs": r.blobs, "bytes": r.bytes }))
        .collect();
    context.show(&value, || {
        let line = |r: &Removed| {
            let tags: Vec<String> = r.tags.iter().map(Tag::to_string).collect();
            let name = if tags.is_empty() { r.digest.short() } else { tags.join(", ") };
            format!("removed {name}: {} freed\n", mib(r.bytes))
        };
        removed.iter().map(line).collect()
    })
}

/// Who hangs on an image, by the state database: by pin, by default, or by having booted it.
pub(super) fn in_use(state_dir: &Path, digest: Digest) -> Result<Vec<String>, String> {
    let Some(state) = Db::open_read_only(state_dir).map_err(|e| e.to_string())? else {
        return Ok(Vec::new());
    };
    let is_it = |target: &Option<BootTarget>| *target == Some(BootTarget::Image { digest });
    let name = |m: &Machine| match &m.hostname {
        Some(host) => format!("{host} ({})", m.mac),
        None => m.mac.to_string(),
    };
    let mut by = Vec::new();
    if is_it(&state.default) {
        by.push("it is the site's default".to_owned());
    }
    let rollouts = state.rollouts.iter().filter(|r| r.to == digest && r.state.is_open());
    by.extend(rollouts.map(|r| format!("rollout {} moves machines to it", r.name)));
    let rules = state.rules.iter().filter(|r| is_it(&Some(r.target.clone())));
    by.extend(rules.map(|r| format!("rule {} names it", r.name)));
    for machine in &state.machines {
        if is_it(&machine.pin) {
            by.push(format!("{} is pinned to it", name(machine)));
        } else if let Some(m) = machine.moved.as_ref().filter(|m| is_it(&Some(m.target.clone()))) {
            by.push(format!("rollout {} moved {} to it", m.rollout, name(machine)));
        } else if machine
            .part
            .as_ref()
            .and_then(|p| p.before.as_ref())
            .is_some_and(|b| is_it(&Some(b.target.clone())))
        {
            by.push(format!("{} gets it back if its rollout is rolled back", name(machine)));
        } else if machine.running == Some(digest) {
            by.push(format!("{} runs it", name(machine)));
        } else if machine.last_healthy == Some(digest) {
            by.push(format!(
                "it is the last one that was healthy on {}, which may need it back",
                name(machine)
            ));
        }
    }
    Ok(by)
}
