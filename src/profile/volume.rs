//! Volumes of a document.

use super::{
    Problem, check,
    document::{Format, Volume},
    template::Texts,
};
use crate::model::VolumeConfig;

const FILE_SYSTEMS: [&str; 2] = ["ext4", "xfs"];
const OPTIONS: [&str; 5] = ["noatime", "relatime", "noexec", "ro", "discard"];

/// Checks a volume and fills in its texts.
pub fn resolve(volume: &Volume, texts: &Texts<'_>) -> Result<VolumeConfig, Problem> {
    let place = |what: &str| format!("volume {}, {what}", volume.mount);
    let one_of = |what: &str, value: &str, allowed: &[&str]| match allowed.contains(&value) {
        true => Ok(()),
        false => Err(texts
            .problem(&place(what), format!("`{}` is none of {}", value.escape_debug(), allowed.join(", ")))),
    };
    texts.check(&place("mount"), check::mount(&volume.mount))?;
    one_of("filesystem", &volume.filesystem, &FILE_SYSTEMS)?;
    volume.options.iter().try_for_each(|option| one_of("options", option, &OPTIONS))?;
    let label = texts.put_in(&place("label"), &volume.label, |l| check::label(l, &volume.filesystem))?;
    let text = |what: &str, value: &Option<String>| match value {
        Some(value) => texts.put_in(&place(what), value, check::disk).map(Some),
        None => Ok(None),
    };
    let size = |what: &str, value: &Option<String>| {
        value.as_deref().map(|v| texts.check(&place(what), check::size(v))).transpose()
    };
    let owner = |what: &str, value: &Option<String>| {
        value.iter().try_for_each(|v| texts.check(&place(what), check::owner(v))).map(|()| value.clone())
    };
    let config = VolumeConfig {
        mount: volume.mount.clone(),
        label,
        filesystem: volume.filesystem.clone(),
        format: volume.format == Some(Format::IfBlank),
        path: text("path", &volume.path)?,
        serial: text("serial", &volume.serial)?,
        min_size: size("min_size", &volume.min_size)?,
        max_size: size("max_size", &volume.max_size)?,
        options: volume.options.clone(),
        owner: owner("owner", &volume.owner)?,
        group: owner("group", &volume.group)?,
        mode: volume.mode.as_deref().map(|m| texts.check(&place("mode"), check::mode(m))).transpose()?,
    };
    let says_which = config.path.is_some()
        || config.serial.is_some()
        || config.min_size.is_some()
        || config.max_size.is_some();
    if config.format && !says_which {
        return Err(texts.problem(
            &place("format"),
            "nothing says which disk may be formatted: add path, serial, min_size or max_size",
        ));
    }
    if config.format && config.options.iter().any(|o| o == "ro") {
        return Err(texts
            .problem(&place("options"), "a volume that is only read can't be made: leave out format or ro"));
    }
    Ok(config)
}
