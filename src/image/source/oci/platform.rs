//! What an image runs on: `os/architecture`, or with a variant `linux/arm/v7`, in Go's words.

use super::json::PlatformField;
use crate::model::Arch;
use std::{fmt, str::FromStr};

/// A platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture in Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// Variant, such as `v8`; `None` takes any, the plain one first.
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on the machine that this runs on.
    pub fn of_this_machine() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Linux on machines of this kind.
    pub fn of(arch: Arch) -> Platform {
        let architecture = match arch {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
            Arch::Riscv64 => "riscv64",
            Arch::Loongarch64 => "loong64",
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// How well a given platform fits: lower is better, `None` doesn't.
    pub(super) fn fit(&self, given: &PlatformField) -> Option<u8> {
        if given.os != self.os || given.architecture != self.architecture {
            return None;
        }
        // The spec makes v8 the variant of arm64; most leave it out.
        let plain = |v: &str| v.is_empty() || (self.architecture == "arm64" && v == "v8");
        match self.variant.as_deref() {
            None => Some(u8::from(!plain(&given.variant))),
            Some(v) if v == given.variant || (plain(v) && plain(&given.variant)) => Some(0),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

impl fmt::Display for PlatformField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str| {
            if text.is_empty() { "unknown".to_owned() } else { text.escape_default().to_string() }
        };
        write!(f, "{}/{}", or(&self.os), or(&self.architecture))?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant.escape_default()) }
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(s: &str) -> Result<Platform, String> {
        let bad = || format!("`{s}` is not a platform: write linux/amd64 or linux/arm/v7");
        let mut parts = s.split('/').map(str::to_owned);
        let (os, architecture) = (parts.next().ok_or_else(bad)?, parts.next().ok_or_else(bad)?);
        let variant = parts.next();
        if os.is_empty() || architecture.is_empty() || parts.next().is_some() {
            return Err(bad());
        }
        // The words of the kernel are understood as well.
        let architecture = match architecture.as_str() {
            "x86_64" => "amd64".into(),
            "aarch64" => "arm64".into(),
            "loongarch64" => "loong64".into(),
            _ => architecture,
        };
        Ok(Platform { os, architecture, variant })
    }
}
