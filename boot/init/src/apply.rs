//! The machine's configuration, applied over the image's root: in the layer in memory, before the image's own init starts.

use crate::{
    accounts::Accounts,
    config::{Config, Volume},
    failure::{Doing, Result},
    place::{Owner, Root},
    volumes,
};

/// Longest /etc/hosts that is read.
const MAX_HOSTS: u64 = 1 << 20;

/// Applies all of it to the root at `path`; in words what was done.
pub fn apply(config: &Config, path: &str) -> Result<String> {
    let root = Root::open(path)?;
    let mut done = volumes::mount(&config.volumes)?;
    let mut accounts = Accounts::read(&root)?;
    for group in &config.groups {
        accounts.add_group(group)?;
    }
    let made: Vec<_> = config.users.iter().map(|user| accounts.add_user(user)).collect::<Result<_>>()?;
    accounts.write(&root)?;
    for (user, account) in config.users.iter().zip(&made) {
        if account.is_new {
            root.make_home(&account.home, account.owner)?;
        }
        if let Some(keys) = &user.ssh_keys {
            let lines: String = keys.iter().map(|key| format!("{key}\n")).collect();
            root.write_keys(&account.home, &lines, account.owner)?;
        }
    }
    for volume in &config.volumes {
        own_volume(volume, &accounts, &root)?;
    }
    for file in &config.files {
        let owner = accounts.owner(&file.owner, &file.group).doing(format!("write {}", file.path))?;
        root.write(&file.path, file.content.as_bytes(), file.mode, owner)?;
    }
    if let Some(hostname) = &config.hostname {
        root.write("/etc/hostname", format!("{hostname}\n").as_bytes(), 0o644, Owner::ROOT)?;
        let before = root.read("/etc/hosts", MAX_HOSTS)?.map(|(text, ..)| text).unwrap_or_default();
        root.write("/etc/hosts", hosts(&before, hostname).as_bytes(), 0o644, Owner::ROOT)?;
        rustix::system::sethostname(hostname.as_bytes()).doing("set the host name")?;
        done.push(format!("host name {hostname}"));
    }
    let mut count = |n: usize, what: &str| match n {
        0 => {}
        1 => done.push(format!("1 {what}")),
        n => done.push(format!("{n} {what}s")),
    };
    count(config.users.len(), "user");
    count(config.groups.len(), "group");
    count(config.files.len(), "file");
    Ok(if done.is_empty() { "nothing to apply".to_owned() } else { done.join(", ") })
}

/// The topmost folder of a volume belongs to whom the configuration says.
fn own_volume(volume: &Volume, accounts: &Accounts, root: &Root) -> Result<()> {
    if volume.owner.is_none() && volume.group.is_none() && volume.mode.is_none() {
        return Ok(());
    }
    let owner = volume.owner.as_deref().unwrap_or("root");
    let owner = accounts.owner(owner, volume.group.as_deref().unwrap_or("root"));
    let owner = owner.doing(format!("set the owner of volume {}", volume.mount))?;
    root.own(&volume.mount, volume.mode.unwrap_or(0o755), owner)
}

/// /etc/hosts in which the machine finds its own name (hosts(5); Debian's line for a machine without a fixed address).
fn hosts(before: &str, hostname: &str) -> String {
    let mut names = hostname.to_owned();
    if let Some((short, _)) = hostname.split_once('.') {
        names.push_str(&format!(" {short}"));
    }
    let own = format!("127.0.1.1 {names}");
    let is_own = |line: &&str| line.split_whitespace().next() == Some("127.0.1.1");
    let mut lines: Vec<&str> = before.lines().filter(|line| !is_own(line)).collect();
    if !lines.iter().any(|line| line.starts_with("127.0.0.1")) {
        lines.insert(0, "127.0.0.1 localhost");
    }
    lines.push(&own);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_one_line_of_our_own() {
        let once = hosts("127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost\n", "db7.example.org");
        assert_eq!(once, "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 db7.example.org db7\n");
        assert_eq!(hosts("", "db7"), "127.0.0.1 localhost\n127.0.1.1 db7\n");
    }
}
