//! Times, names and images in words for people.

use crate::{
    client::Client,
    model::{BootTarget, ClientArch, Digest, Millis, Tag},
};
use std::collections::BTreeMap;

/// This host's time.
pub fn now() -> Millis {
    jiff::Timestamp::now().as_millisecond()
}

/// A time in UTC to the second. UTC on purpose: logs of several hosts are read side by side.
pub fn time(at: Millis) -> String {
    let stamp = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    stamp.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Reads a time that a person wrote: a day (its first moment, in UTC) or a moment of RFC 3339.
pub fn parse_time(text: &str) -> Result<Millis, String> {
    let day = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let stamp = text.parse::<jiff::Timestamp>().ok().or_else(|| day().map(|z| z.timestamp()));
    stamp.map(|t| t.as_millisecond()).ok_or_else(|| "write 2027-01-31 or 2027-01-31T12:00:00Z".into())
}

/// The time of day in UTC, to the millisecond.
pub fn clock(at: Millis) -> String {
    let stamp = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    stamp.strftime("%H:%M:%S%.3f").to_string()
}

/// A span in its largest unit, as in `12s`, `3m`, `7h`, `2d`.
pub fn ago(millis: Millis) -> String {
    let s = millis.max(0) / 1_000;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m", s / 60),
        3_600..86_400 => format!("{}h", s / 3_600),
        _ => format!("{}d", s / 86_400),
    }
}

/// Milliseconds as seconds with one digit.
pub fn seconds(millis: Millis) -> String {
    format!("{:.1}", millis as f64 / 1_000.0)
}

/// Bytes in a unit that people read.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Firmware as people call it.
pub fn firmware(arch: ClientArch) -> String {
    match arch {
        ClientArch::Bios => "bios".into(),
        ClientArch::BiosHttp => "bios http".into(),
        ClientArch::UefiIa32 => "uefi ia32".into(),
        ClientArch::UefiX64 => "uefi x64".into(),
        ClientArch::UefiArm32 => "uefi arm32".into(),
        ClientArch::UefiArm64 => "uefi arm64".into(),
        ClientArch::HttpIa32 => "uefi http ia32".into(),
        ClientArch::HttpX64 => "uefi http x64".into(),
        ClientArch::HttpArm32 => "uefi http arm32".into(),
        ClientArch::HttpArm64 => "uefi http arm64".into(),
        ClientArch::UefiRiscv64 => "uefi riscv64".into(),
        ClientArch::UefiLoong64 => "uefi loong64".into(),
        ClientArch::Other(code) => format!("arch {code}"),
    }
}

/// Names and values, a line each, aligned.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(k, _)| k.chars().count()).max().unwrap_or(0);
    pairs.iter().map(|(k, v)| format!("{k:<width$}  {}\n", clean(v))).collect()
}

/// Control characters as `?`: some of the words are machines' own.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Digests as the tags that operators know.
#[derive(Debug, Default)]
pub struct Tags(BTreeMap<Digest, Tag>);

impl Tags {
    /// Asks the service; without an answer digests stay digests.
    pub fn fetch(client: &Client) -> Tags {
        let images = client.images().unwrap_or_default();
        let name = |i: crate::model::wire::ImageView| {
            let tag = i.tags.into_iter().next().or(i.manifest.map(|m| m.tag))?;
            Some((i.digest, tag))
        };
        Tags(images.into_iter().filter_map(name).collect())
    }

    /// An image by its tag, else by the beginning of its digest.
    pub fn image(&self, digest: Digest) -> String {
        self.0.get(&digest).map_or_else(|| digest.short(), Tag::to_string)
    }

    /// A boot target with its image by tag.
    pub fn target(&self, target: &BootTarget) -> String {
        match target {
            BootTarget::Image { digest } => self.image(*digest),
            other => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(time(1_764_000_000_000), "2025-11-24 16:00:00Z");
        assert_eq!(parse_time("2025-11-24T16:00:00Z"), Ok(1_764_000_000_000));
        assert_eq!(parse_time("2025-11-24"), Ok(1_763_942_400_000));
        assert!(parse_time("tomorrow").is_err());
        assert_eq!(clock(1_764_000_000_042), "16:00:00.042");
        assert_eq!([ago(-5), ago(59_999), ago(3_599_000), ago(86_400_000)], ["0s", "59s", "59m", "1d"]);
        assert_eq!([size(999), size(1_500), size(520_000_000)], ["999 B", "1.5 kB", "520.0 MB"]);
        assert_eq!(seconds(14_049), "14.0");
    }
}
