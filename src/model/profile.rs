use super::{Digest, Millis};
use serde::{Deserialize, Serialize};

/// What the machines that a selector picks get besides their image: host name, users, files, kernel arguments, volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// Its name, unique.
    pub name: String,
    /// Which machines, as `fleet::Selector` reads it.
    pub selector: String,
    /// The document as it was given: TOML, as `profile::Document` reads it.
    pub document: String,
    /// When it was first set: of two profiles with equally many conditions the older one counts.
    pub created: Millis,
    /// When it was last set.
    pub changed: Millis,
}

/// A machine's configuration, rendered for it: what `init` applies over the image's root before the image's own init
/// starts. Its JSON is what machines are sent; `boot/init/src/config.rs` reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Host name, with or without a domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Words for the kernel command line. They are on the boot script already: `init` passes over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_args: Vec<String>,
    /// Groups to make, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupConfig>,
    /// Users to make or to change, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserConfig>,
    /// Files to write, by path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileConfig>,
    /// Disks to mount, by place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeConfig>,
}

impl MachineConfig {
    /// True where there is nothing for `init` to apply: the kernel arguments are the boot script's.
    pub fn is_empty(&self) -> bool {
        let rest = MachineConfig { kernel_args: self.kernel_args.clone(), ..MachineConfig::default() };
        *self == rest
    }
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Name.
    pub name: String,
    /// Its number; a free one where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A user. One that the image has is changed in what is given, and keeps the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserConfig {
    /// Name.
    pub name: String,
    /// Its number; a free one from 1000 on where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its own group, made where it isn't there; one of its own name where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Groups that it is in besides; they must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Home folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Login shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Hash of its password, as crypt(5) writes it; without one no password fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// All its `authorized_keys`, a line each; `None` leaves the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_keys: Option<Vec<String>>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileConfig {
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its disk's serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Fewest bytes of its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<u64>,
    /// Most bytes of its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    /// Mount options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Who its topmost folder belongs to; left as it is where neither this nor `group` nor `mode` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// And which group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Permission bits of that folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// The configuration that a boot was promised, as its record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptConfig {
    /// Of [`MachineConfig`] as it was rendered for the boot script, with names in the place of secrets.
    pub digest: Digest,
    /// The profiles that it was made of, the one that counts most first.
    pub profiles: Vec<String>,
    /// When the machine was given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<Millis>,
    /// SHA-256 of the number that the machine's `init` chose for this boot: only who knows it is answered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce_hash: Option<Digest>,
}
