//! What a folder or an ISO holds: finds the files of a [`Preset`], or the preset that fits.

mod listing;
#[cfg(test)]
mod tests;

pub use listing::{Folder, IsoFile, Listing, matches};

use super::{
    input::Input,
    iso::IsoError,
    preset::{FROM_MEDIUM, Layout, PRESETS, Preset, Root, Sign},
};
use std::{cmp::Ordering, io, path::PathBuf};

/// The files of a system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which system it is.
    pub preset: &'static Preset,
    /// Its kernel.
    pub kernel: Input,
    /// Its initramfs.
    pub initramfs: Input,
    /// What its initramfs fetches.
    pub rootfs: Option<Input>,
    /// What an operator should hear of the choice.
    pub notes: Vec<String>,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The ISO.
    #[error("{path}: {source}")]
    Iso {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: IsoError,
    },
    /// The folder.
    #[error("can't read folder {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No preset fits.
    #[error(
        "{what} is none of the systems that Pristine knows. It was looked for:\n{}\nImport its files by --kernel, --initramfs, --rootfs and --cmdline with --foreign",
        looked_for()
    )]
    Unknown {
        /// The ISO, with the name of its volume.
        what: String,
    },
    /// An installer that needs its medium.
    #[error(
        "{what} is installation media of Debian: its initramfs looks for packages on the medium itself, and none is there after a network boot. Take the installer for network boot (netboot.tar.gz or mini.iso of the Debian mirrors, or the package debian-installer-12-netboot-amd64) with --preset debian-installer --dir; `--preset debian-installer` imports this one all the same"
    )]
    NeedsMedium {
        /// The ISO.
        what: String,
    },
    /// A preset's file is missing.
    #[error("{what} has no `{missing}`, which preset {preset} needs. It looks for:\n{}", shown(layouts))]
    Missing {
        /// The folder or ISO.
        what: String,
        /// The preset's name.
        preset: &'static str,
        /// The pattern that nothing fits.
        missing: &'static str,
        /// What was looked for.
        layouts: &'static [Layout],
    },
    /// Several files fit.
    #[error("{what} has several files that could be the {role}: {}; give the right one alone in a folder, or by --kernel, --initramfs and --rootfs", files.join(", "))]
    Several {
        /// The folder or ISO.
        what: String,
        /// Which part.
        role: &'static str,
        /// The files.
        files: Vec<String>,
    },
}

fn looked_for() -> String {
    let known = PRESETS.iter().flat_map(|p| p.layouts.iter().filter(|l| l.iso).map(move |l| (p.name, l)));
    let lines = known.map(|(name, layout)| format!("  {name}: {}", layout_words(layout)));
    lines.collect::<Vec<_>>().join("\n")
}

fn layout_words(layout: &Layout) -> String {
    let mut words = layout.patterns().join(", ");
    if let Some(Sign::Volume(front)) = layout.sign {
        words.push_str(&format!(" in a volume {front}…"));
    }
    words
}

fn shown(layouts: &[Layout]) -> String {
    layouts.iter().map(|l| format!("  {}", l.patterns().join(", "))).collect::<Vec<_>>().join("\n")
}

/// Which system an ISO is, and its files.
pub fn recognise(iso: &IsoFile) -> Result<Found, LiveError> {
    for preset in PRESETS {
        for layout in preset.layouts.iter().filter(|layout| layout.iso) {
            if is(iso, layout)? {
                return choose(iso, preset, layout);
            }
        }
    }
    let what = iso.shown();
    Err(match is(iso, &FROM_MEDIUM)? {
        true => LiveError::NeedsMedium { what },
        false => LiveError::Unknown { what },
    })
}

/// The files of `preset` in a folder or an ISO.
pub fn find(from: &dyn Listing, preset: &'static Preset) -> Result<Found, LiveError> {
    // What the nearest layout lacks is what to say.
    let mut nearest: Option<(usize, &'static str)> = None;
    // An ISO that lies unpacked in a folder can't be served as one.
    let usable =
        |layout: &&Layout| !layout.iso || from.itself().is_some() || !matches!(layout.rootfs, Root::Iso(_));
    for layout in preset.layouts.iter().filter(usable) {
        let mut there = 0;
        let mut missing = None;
        for pattern in layout.patterns() {
            match from.find(pattern)?.is_empty() {
                true => missing = missing.or(Some(pattern)),
                false => there += 1,
            }
        }
        let Some(missing) = missing else { return choose(from, preset, layout) };
        if nearest.is_none_or(|(most, _)| there > most) {
            nearest = Some((there, missing));
        }
    }
    if preset.name == "debian-installer" && is(from, &FROM_MEDIUM)? {
        let mut found = choose(from, preset, &FROM_MEDIUM)?;
        found
            .notes
            .push("its initramfs looks for packages on the installation medium, not on the network".into());
        return Ok(found);
    }
    let (what, missing) = (from.shown(), nearest.map_or("", |(_, missing)| missing));
    Err(LiveError::Missing { what, preset: preset.name, missing, layouts: preset.layouts })
}

fn is(from: &dyn Listing, layout: &Layout) -> Result<bool, LiveError> {
    if let Some(Sign::Volume(front)) = layout.sign
        && !from.volume().is_some_and(|volume| volume.starts_with(front))
    {
        return Ok(false);
    }
    for pattern in layout.patterns() {
        if from.find(pattern)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn choose(from: &dyn Listing, preset: &'static Preset, layout: &Layout) -> Result<Found, LiveError> {
    let mut notes = Vec::new();
    let mut kernels = from.find(layout.kernel)?;
    kernels.sort_by(|a, b| newer(a, b));
    let missing = |pattern| LiveError::Missing {
        what: from.shown(),
        preset: preset.name,
        missing: pattern,
        layouts: preset.layouts,
    };
    let kernel = kernels.last().cloned().ok_or_else(|| missing(layout.kernel))?;
    if kernels.len() > 1 {
        notes.push(format!(
            "it has {} kernels, {}: took {kernel}, the newest",
            kernels.len(),
            kernels.join(", ")
        ));
    }
    let initramfs = partner(from, "initramfs", layout.initramfs, (layout.kernel, &kernel))?;
    let rootfs = match layout.rootfs {
        Root::None => None,
        Root::Iso(_) if layout.iso => from.itself(),
        Root::File(pattern) | Root::Iso(pattern) => {
            Some(from.input(&partner(from, "root", pattern, (layout.kernel, &kernel))?)?)
        }
    };
    Ok(Found { preset, kernel: from.input(&kernel)?, initramfs: from.input(&initramfs)?, rootfs, notes })
}

/// The file that belongs to `kernel` among those that fit `pattern`: of its folder, of its version.
fn partner(
    from: &dyn Listing,
    role: &'static str,
    pattern: &str,
    (kernel_pattern, kernel): (&str, &str),
) -> Result<String, LiveError> {
    let mut files = from.find(pattern)?;
    let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    let keep = |files: &mut Vec<String>, fits: &dyn Fn(&str) -> bool| {
        if files.iter().any(|f| fits(f)) {
            files.retain(|f| fits(f));
        }
    };
    keep(&mut files, &|f| folder(f) == folder(kernel));
    // `vmlinuz-6.1.0-49-amd64` and `initrd.img-6.1.0-49-amd64` end alike, `fedora-coreos-43.1-live-kernel…` and
    // `fedora-coreos-43.1-live-initramfs…` begin alike.
    let (front, back) = kernel_pattern.split_once('*').unwrap_or((kernel_pattern, ""));
    if !kernel_pattern.contains('*') || folder(kernel_pattern).contains('*') {
        // One kernel, one initramfs.
    } else if front.rsplit('/').next().is_some_and(str::is_empty) {
        let begins = kernel.split(back.trim_matches('*')).next().unwrap_or_default();
        keep(&mut files, &|f| f.starts_with(begins));
    } else {
        let version = kernel.get(front.len()..).unwrap_or_default();
        match version.is_empty() {
            true => keep(&mut files, &|f| !f.contains(|c: char| c.is_ascii_digit())),
            false => keep(&mut files, &|f| f.ends_with(version)),
        }
    }
    match files.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(LiveError::Several { what: from.shown(), role, files }),
    }
}

/// Versions in the order in which people count: 6.1.0-9 before 6.1.0-10, a name without one before all.
fn newer(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| {
        let mut out: Vec<(u64, String)> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, tail) = rest.split_at(digits);
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (word, tail) = tail.split_at(end);
            out.push((number.parse().unwrap_or(0), word.to_owned()));
            rest = tail;
        }
        out
    };
    parts(a).cmp(&parts(b))
}
