//! The document of a profile. Every text in it is a template but names, paths, modes, owners and `content`.

use super::MAX_DOCUMENT;
use serde::Deserialize;

/// A profile's document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// Host name, with or without a domain.
    pub hostname: Option<String>,
    /// Words for the kernel command line.
    pub kernel_args: Vec<String>,
    /// Users.
    #[serde(rename = "user")]
    pub users: Vec<User>,
    /// Groups.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
    /// Files.
    #[serde(rename = "file")]
    pub files: Vec<File>,
    /// Networks of the running system.
    #[serde(rename = "network")]
    pub networks: Vec<Network>,
    /// Seed of cloud-init's NoCloud.
    pub cloud_init: Option<CloudInit>,
    /// Ignition's document.
    pub ignition: Option<Ignition>,
    /// Disks whose contents outlive a boot.
    #[serde(rename = "volume")]
    pub volumes: Vec<Volume>,
}

/// A user to make, or to change where the image has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Name.
    pub name: String,
    /// Number.
    pub uid: Option<u32>,
    /// Its own group.
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
    /// Lines of `authorized_keys`.
    pub ssh_keys: Option<Vec<String>>,
}

/// A group to make.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: Option<u32>,
}

/// A file to write: one of `content`, `template` and `secret`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Octal digits, as in `0644`.
    #[serde(default = "mode")]
    pub mode: String,
    /// User, by name or number.
    #[serde(default = "root")]
    pub owner: String,
    /// Group, by name or number.
    #[serde(default = "root")]
    pub group: String,
    /// All of it, as it stands.
    pub content: Option<String>,
    /// All of it, with facts put in.
    pub template: Option<String>,
    /// The secret that is all of it.
    pub secret: Option<String>,
}

fn mode() -> String {
    "0644".to_owned()
}

fn root() -> String {
    "root".to_owned()
}

/// A network of the running system, for systemd-networkd.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Names its file.
    pub name: String,
    /// Which NIC, by MAC; the one that boots where neither this nor `interface` is given.
    pub mac: Option<String>,
    /// Which NIC, by name (`*` stands for any text).
    pub interface: Option<String>,
    /// Whether it asks for an address by DHCP.
    #[serde(default)]
    pub dhcp: bool,
    /// Addresses with the length of their prefix, as in `10.0.0.5/24`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Default router.
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Search domains.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Bytes of the largest packet.
    pub mtu: Option<u16>,
}

/// Seed of cloud-init's NoCloud data source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    /// `user-data`.
    pub user_data: String,
    /// `meta-data`; the machine's name where there is none.
    pub meta_data: Option<String>,
    /// `network-config`.
    pub network_config: Option<String>,
    /// `vendor-data`.
    pub vendor_data: Option<String>,
}

/// Ignition's document.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignition {
    /// JSON with `ignition.version`.
    pub config: String,
}

/// A disk whose contents outlive a boot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where it is mounted.
    pub mount: String,
    /// Label of its file system.
    pub label: String,
    /// `ext4` or `xfs`.
    #[serde(default = "ext4")]
    pub filesystem: String,
    /// `if-blank`: it is made where its disk is blank.
    pub format: Option<Format>,
    /// Where its disk is plugged in.
    pub path: Option<String>,
    /// Its disk's serial number.
    pub serial: Option<String>,
    /// Smallest disk, as in `100G`.
    pub min_size: Option<String>,
    /// Largest disk.
    pub max_size: Option<String>,
    /// `noatime`, `relatime`, `noexec`, `ro`, `discard`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Who its topmost folder belongs to.
    pub owner: Option<String>,
    /// And which group.
    pub group: Option<String>,
    /// Octal digits.
    pub mode: Option<String>,
}

/// When a volume may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Format {
    /// Where its disk is blank.
    #[serde(rename = "if-blank")]
    IfBlank,
}

fn ext4() -> String {
    "ext4".to_owned()
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// It is too long, or no TOML of this shape: with line and column.
    pub fn parse(profile: &str, text: &str) -> Result<Document, String> {
        if text.len() > MAX_DOCUMENT {
            let have = text.len();
            return Err(format!(
                "profile {profile}: the document has {have} bytes, and {MAX_DOCUMENT} are the most: put large files into the image"
            ));
        }
        toml::from_str(text).map_err(|e| {
            let at = e.span().map(|span| place(text, span.start)).unwrap_or_default();
            format!("profile {profile}{at}: {}", e.message().trim())
        })
    }
}

fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(", line {line}, column {column}")
}
