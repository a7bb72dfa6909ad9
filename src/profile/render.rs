//! From the documents of several profiles to one machine's configuration.
//!
//! An entry with a key (a file by its path; a user, a group, a network by its name; a volume by its place; a kernel argument by what stands before its `=`) is
//! taken whole from the profile that counts most of those that have it; the host name, cloud-init's seed and Ignition's document
//! likewise.

use super::{
    Document, Problem, Profile, check,
    document::{CloudInit, File, Group, Ignition, Network, User, Volume},
    network,
    template::{Secrets, Texts, Values},
    volume,
};
use crate::{
    model::{AttemptConfig, Digest, FileConfig, GroupConfig, MachineConfig, UserConfig},
    netboot::cmdline,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Most entries of one kind that a machine gets.
const MAX_ENTRIES: usize = 1_000;
/// Longest configuration of one machine, in bytes of all its files.
const MAX_BYTES: usize = 4 << 20;
/// Where cloud-init looks for a seed of its data source NoCloud.
const NOCLOUD: &str = "/var/lib/cloud/seed/nocloud";
/// Where Ignition takes what the system brings (its provider `system`).
const IGNITION: &str = "/usr/lib/ignition/user.ign";

/// A machine's configuration, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// What `init` applies.
    pub config: MachineConfig,
    /// Of the configuration as JSON.
    pub digest: Digest,
    /// The profiles, the one that counts most first.
    pub profiles: Vec<String>,
    /// Names of the secrets in it.
    pub secrets: BTreeSet<String>,
}

impl Configured {
    /// What the kernel command line names, where there is something for `init` to ask for.
    pub fn for_init(&self) -> Option<Digest> {
        (!self.config.is_empty()).then_some(self.digest)
    }

    /// As the record of a boot has it that is promised it.
    pub fn into_record(self) -> AttemptConfig {
        AttemptConfig { digest: self.digest, profiles: self.profiles, delivered: None, nonce_hash: None }
    }

    /// What an initramfs that isn't Pristine's can be given.
    pub fn only_kernel_args(self) -> Configured {
        let config = MachineConfig { kernel_args: self.config.kernel_args, ..MachineConfig::default() };
        Configured { digest: digest(&config), config, profiles: self.profiles, secrets: BTreeSet::new() }
    }
}

fn digest(config: &MachineConfig) -> Digest {
    // A structure of texts and numbers has a JSON.
    Digest::of(&serde_json::to_vec(config).unwrap_or_default())
}

/// Entries by key, each with the name of its profile.
type Chosen<'a, T> = BTreeMap<&'a str, (&'a str, &'a T)>;

/// The entries of all documents, the one that counts most first.
#[derive(Default)]
struct Merged<'a> {
    hostname: Option<(&'a str, &'a str)>,
    kernel_args: Vec<(&'a str, &'a str)>,
    groups: Chosen<'a, Group>,
    users: Chosen<'a, User>,
    files: Chosen<'a, File>,
    networks: Chosen<'a, Network>,
    cloud_init: Option<(&'a str, &'a CloudInit)>,
    ignition: Option<(&'a str, &'a Ignition)>,
    volumes: Chosen<'a, Volume>,
}

/// What stands before `=`.
fn argument(word: &str) -> &str {
    word.split('=').next().unwrap_or_default()
}

impl<'a> Merged<'a> {
    /// Adds a document that counts less than those before it.
    fn add(&mut self, profile: &'a str, document: &'a Document) {
        if let Some(hostname) = &document.hostname {
            self.hostname.get_or_insert((profile, hostname));
        }
        let taken: BTreeSet<&str> = self.kernel_args.iter().map(|(_, word)| argument(word)).collect();
        let more = document.kernel_args.iter().filter(|word| !taken.contains(argument(word)));
        let more: Vec<_> = more.map(|word| (profile, word.as_str())).collect();
        // What counts more stands behind: the kernel takes the last of what contradicts.
        drop(self.kernel_args.splice(0..0, more));
        for g in &document.groups {
            self.groups.entry(&g.name).or_insert((profile, g));
        }
        for u in &document.users {
            self.users.entry(&u.name).or_insert((profile, u));
        }
        for f in &document.files {
            self.files.entry(&f.path).or_insert((profile, f));
        }
        for n in &document.networks {
            self.networks.entry(&n.name).or_insert((profile, n));
        }
        if let Some(cloud_init) = &document.cloud_init {
            self.cloud_init.get_or_insert((profile, cloud_init));
        }
        if let Some(ignition) = &document.ignition {
            self.ignition.get_or_insert((profile, ignition));
        }
        for v in &document.volumes {
            self.volumes.entry(&v.mount).or_insert((profile, v));
        }
    }
}

/// The configuration that these profiles, the one that counts most first, make for a machine. `None` where none picks it.
///
/// # Errors
/// A template that can't be filled for this machine, or a value that can't be: with profile, place and line.
pub fn render(
    profiles: &[Arc<Profile>],
    facts: &Values,
    secrets: &Secrets,
) -> Result<Option<Configured>, Problem> {
    let mut merged = Merged::default();
    profiles.iter().for_each(|p| merged.add(p.name(), &p.document));
    if profiles.is_empty() {
        return Ok(None);
    }
    let (config, used) = resolve(&merged, Some(facts), secrets)?;
    let digest = digest(&config);
    let profiles = profiles.iter().map(|p| p.name().to_owned()).collect();
    Ok(Some(Configured { config, digest, profiles, secrets: used }))
}

/// Checks a document as far as it can be without a machine.
pub fn check(profile: &str, document: &Document) -> Result<(), Problem> {
    let texts = Texts::new(profile, None, &Secrets::Hidden);
    let twice = |kind: &str, keys: Vec<&str>| {
        let mut seen = BTreeSet::new();
        match keys.into_iter().find(|key| !seen.insert(*key)) {
            Some(key) => Err(texts.problem(&format!("{kind} {key}"), "it is there twice")),
            None => Ok(()),
        }
    };
    twice("group", document.groups.iter().map(|g| g.name.as_str()).collect())?;
    twice("user", document.users.iter().map(|u| u.name.as_str()).collect())?;
    twice("file", document.files.iter().map(|f| f.path.as_str()).collect())?;
    twice("volume", document.volumes.iter().map(|v| v.mount.as_str()).collect())?;
    twice("network", document.networks.iter().map(|n| n.name.as_str()).collect())?;
    let mut merged = Merged::default();
    merged.add(profile, document);
    resolve(&merged, None, &Secrets::Hidden).map(drop)
}

fn resolve(
    merged: &Merged<'_>,
    facts: Option<&Values>,
    secrets: &Secrets,
) -> Result<(MachineConfig, BTreeSet<String>), Problem> {
    let mut used = BTreeSet::new();
    let texts = |profile| Texts::new(profile, facts, secrets);
    let mut config = MachineConfig::default();
    if let Some((profile, hostname)) = merged.hostname {
        config.hostname = Some(texts(profile).put_in("hostname", hostname, check::hostname)?);
    }
    for (profile, word) in &merged.kernel_args {
        let checked = |w: &str| match w {
            "" => Ok(()),
            w => cmdline::check_argument(w).map_err(|e| e.to_string()),
        };
        let word = texts(profile).put_in("kernel_args", word, checked)?;
        if !word.is_empty() {
            config.kernel_args.push(word);
        }
    }
    for (profile, group) in merged.groups.values() {
        texts(profile).check(&format!("group {}", group.name), check::account(&group.name))?;
        config.groups.push(GroupConfig { name: group.name.clone(), gid: group.gid });
    }
    for (profile, user) in merged.users.values() {
        let texts = texts(profile);
        config.users.push(self::user(user, &texts)?);
        used.extend(texts.used());
    }
    for (profile, file) in merged.files.values() {
        let texts = texts(profile);
        config.files.push(self::file(file, &texts)?);
        used.extend(texts.used());
    }
    for (profile, network) in merged.networks.values() {
        let texts = texts(profile);
        texts.check(&format!("network {}", network.name), check::word(&network.name))?;
        config.files.push(network::file(network, &texts)?);
    }
    if let Some((profile, cloud_init)) = merged.cloud_init {
        let texts = texts(profile);
        config.files.extend(self::cloud_init(cloud_init, &texts)?);
        used.extend(texts.used());
    }
    if let Some((profile, ignition)) = merged.ignition {
        let texts = texts(profile);
        let content = texts.put_in_secrets("ignition, config", &ignition.config, check::ignition)?;
        used.extend(texts.used());
        config.files.push(private(IGNITION, content));
    }
    for (profile, volume) in merged.volumes.values() {
        config.volumes.push(volume::resolve(volume, &texts(profile))?);
    }
    one_label_each(&config, merged)?;
    let bytes: usize = config.files.iter().map(|f| f.content.len()).sum();
    let most = [config.files.len(), config.users.len(), config.groups.len(), config.kernel_args.len()];
    let profile = merged.files.values().next().map_or("", |(profile, _)| profile);
    if bytes > MAX_BYTES || most.iter().any(|n| *n > MAX_ENTRIES) {
        let what = format!(
            "all files together have {bytes} bytes: a machine gets at most {MAX_BYTES}, and {MAX_ENTRIES} entries of each kind. Put large \
             files into the image"
        );
        return Err(texts(profile).problem("", what));
    }
    Ok((config, used))
}

/// Two volumes on one file system would be one disk at two places.
fn one_label_each(config: &MachineConfig, merged: &Merged<'_>) -> Result<(), Problem> {
    let mut seen = BTreeMap::new();
    for volume in &config.volumes {
        if let Some(other) = seen.insert(&volume.label, &volume.mount) {
            let profile = merged.volumes.get(volume.mount.as_str()).map_or("", |(profile, _)| profile);
            let what = format!("volume {other} has the label {} as well", volume.label);
            return Err(Texts::new(profile, None, &Secrets::Hidden)
                .problem(&format!("volume {}, label", volume.mount), what));
        }
    }
    Ok(())
}

fn user(user: &User, texts: &Texts<'_>) -> Result<UserConfig, Problem> {
    let place = |what: &str| format!("user {}, {what}", user.name);
    texts.check(&place("name"), check::account(&user.name))?;
    for group in user.group.iter().chain(&user.groups) {
        texts.check(&place("groups"), check::account(group))?;
    }
    for (what, path) in [("home", &user.home), ("shell", &user.shell)] {
        if let Some(path) = path {
            texts.check(&place(what), check::path(path).and_then(|()| check::field(path)))?;
        }
    }
    let password_hash = match &user.password_hash {
        Some(hash) => Some(texts.put_in_secrets(&place("password_hash"), hash, check::password_hash)?),
        None => None,
    };
    let mut ssh_keys = None;
    for key in user.ssh_keys.iter().flatten() {
        let lines: &mut Vec<String> = ssh_keys.get_or_insert_default();
        let text = texts.put_in_secrets(&place("ssh_keys"), key.trim(), |k| {
            if k.trim().is_empty() { Ok(()) } else { check::ssh_key(k.trim()) }
        })?;
        if !text.trim().is_empty() {
            lines.push(text.trim().to_owned());
        }
    }
    Ok(UserConfig {
        name: user.name.clone(),
        uid: user.uid,
        group: user.group.clone(),
        groups: user.groups.clone(),
        home: user.home.clone(),
        shell: user.shell.clone(),
        password_hash,
        ssh_keys,
    })
}

fn file(file: &File, texts: &Texts<'_>) -> Result<FileConfig, Problem> {
    let place = |what: &str| format!("file {}, {what}", file.path);
    texts.check(&place("path"), check::path(&file.path))?;
    let mode = texts.check(&place("mode"), check::mode(&file.mode))?;
    texts.check(&place("owner"), check::owner(&file.owner))?;
    texts.check(&place("group"), check::owner(&file.group))?;
    let content = match (&file.content, &file.template, &file.secret) {
        (Some(content), None, None) => content.clone(),
        (None, Some(template), None) => texts.put_in_secrets(&place("template"), template, |_| Ok(()))?,
        (None, None, Some(secret)) => texts.put_secret(&place("secret"), secret)?,
        (None, None, None) => {
            return Err(
                texts.problem(&place("content"), "it is missing: write `content`, `template` or `secret`")
            );
        }
        _ => {
            return Err(texts.problem(
                &place("content"),
                "it has several of `content`, `template` and `secret`: choose one",
            ));
        }
    };
    Ok(FileConfig {
        path: file.path.clone(),
        mode,
        owner: file.owner.clone(),
        group: file.group.clone(),
        content,
    })
}

fn private(path: &str, content: String) -> FileConfig {
    FileConfig { path: path.to_owned(), mode: 0o600, owner: "root".into(), group: "root".into(), content }
}

fn cloud_init(seed: &CloudInit, texts: &Texts<'_>) -> Result<Vec<FileConfig>, Problem> {
    const META_DATA: &str = "instance-id: {{ mac }}\nlocal-hostname: {{ name | replace(':', '-') }}\n";
    let fits = |_: &str| Ok(());
    let mut files = Vec::new();
    let mut put = |name: &str, place: &str, text: &str, check: fn(&str) -> Result<(), String>| {
        let content = texts.put_in_secrets(&format!("cloud_init, {place}"), text, check)?;
        files.push(private(&format!("{NOCLOUD}/{name}"), content));
        Ok(())
    };
    put("user-data", "user_data", &seed.user_data, check::user_data)?;
    put("meta-data", "meta_data", seed.meta_data.as_deref().unwrap_or(META_DATA), fits)?;
    if let Some(text) = &seed.network_config {
        put("network-config", "network_config", text, fits)?;
    }
    if let Some(text) = &seed.vendor_data {
        put("vendor-data", "vendor_data", text, check::user_data)?;
    }
    Ok(files)
}
