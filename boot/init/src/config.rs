//! The machine's own configuration, asked of the service once for this boot.

use crate::{
    cmdline::Boot,
    digest::Digest,
    failure::{Doing, Result, failed},
    fetch, random,
};
use serde::Deserialize;

/// Longest configuration that is read.
const MAX_CONFIG: u64 = 32 << 20;
const PATH: &str = "/boot/config";

/// What is to be applied over the image's root (the service's `model::MachineConfig`). Parts of it are secret: it has no `Debug`.
#[derive(Clone, Deserialize)]
pub struct Config {
    /// Names it, as in the boot's record.
    pub digest: Digest,
    /// Host name, with or without a domain.
    pub hostname: Option<String>,
    /// Groups to make.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// Users to make or change.
    #[serde(default)]
    pub users: Vec<User>,
    /// Files to write.
    #[serde(default)]
    pub files: Vec<File>,
    /// Disks to mount.
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

/// A group to make.
#[derive(Clone, Deserialize)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number; a free one where there is none.
    pub gid: Option<u32>,
}

/// A user to make, or to change where the image has it.
#[derive(Clone, Default, Deserialize)]
pub struct User {
    /// Name.
    pub name: String,
    /// Number; a free one where there is none.
    pub uid: Option<u32>,
    /// Its own group; one of its name where there is none.
    pub group: Option<String>,
    /// Other groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Home folder.
    pub home: Option<String>,
    /// Login shell.
    pub shell: Option<String>,
    /// As crypt(5) writes it.
    pub password_hash: Option<String>,
    /// All its authorized_keys.
    pub ssh_keys: Option<Vec<String>>,
}

/// A file to write.
#[derive(Clone, Deserialize)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// User, by name or number.
    pub owner: String,
    /// Group, by name or number.
    pub group: String,
    /// All of it.
    pub content: String,
}

/// A disk whose contents outlive a boot.
#[derive(Clone, Default, Deserialize)]
pub struct Volume {
    /// Where it is mounted.
    pub mount: String,
    /// Label of its file system.
    pub label: String,
    /// `ext4` or `xfs`.
    pub filesystem: String,
    /// It may be made where its disk is blank.
    #[serde(default)]
    pub format: bool,
    /// Where its disk is plugged in, as /dev/disk/by-path names it.
    pub path: Option<String>,
    /// Its disk's serial number.
    pub serial: Option<String>,
    /// Fewest bytes of its disk.
    pub min_size: Option<u64>,
    /// Most bytes of its disk.
    pub max_size: Option<u64>,
    /// Mount options.
    #[serde(default)]
    pub options: Vec<String>,
    /// Who its topmost folder belongs to.
    pub owner: Option<String>,
    /// And which group.
    pub group: Option<String>,
    /// Permission bits of that folder.
    pub mode: Option<u32>,
}

/// Asks for the configuration of this boot, of which the command line names the first digits.
pub fn ask(boot: &Boot, promised: &str) -> Result<Config> {
    // The same in each try: the service answers again only who knows it.
    let nonce: String = (0..4).map(|_| format!("{:08x}", random::bits())).collect();
    let body = format!(r#"{{"nonce":"{nonce}"}}"#);
    let what = "this machine's configuration";
    let bytes = fetch::posted(boot.server, PATH, &boot.token, &body, MAX_CONFIG, what)?;
    read(&bytes, promised)
}

fn read(bytes: &[u8], promised: &str) -> Result<Config> {
    // What serde says of it never shows a value of it.
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|e| format!("line {}, column {}", e.line(), e.column()))
        .doing("read this machine's configuration")?;
    let digest = config.digest.to_string();
    let named = promised.len() >= 12 && promised.bytes().all(|b| b.is_ascii_hexdigit());
    if named && !digest.starts_with(promised) {
        return failed(format!(
            "the server sends configuration {digest}, and the boot script promised {promised}"
        ));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn another_configuration_than_promised_is_refused_and_no_content_is_shown() {
        let digest = "ab".repeat(32);
        let text = format!(
            r#"{{"digest":"{digest}","hostname":"db7","kernel_args":["quiet"],"files":[{{"path":"/x","mode":384,"owner":"root","group":"0","content":"hush"}}]}}"#
        );
        let config = read(text.as_bytes(), "abababababab").unwrap();
        assert_eq!(config.hostname.as_deref(), Some("db7"));
        assert!(read(text.as_bytes(), "yes").is_ok(), "an initramfs that came from elsewhere takes any");
        let said = read(text.as_bytes(), "cdcdcdcdcdcd").err().unwrap().0;
        assert!(said.contains("promised cdcdcdcdcdcd"), "{said}");
        let broken = text.replace("384", "\"hush\"");
        let said = read(broken.as_bytes(), "abababababab").err().unwrap().0;
        assert!(!said.contains("hush"), "{said}");
    }
}
