//! What names, paths, modes, addresses and keys can be. Each check says what is wrong in words that follow the value.

use std::net::IpAddr;

/// Folders that the running system puts its own file systems on: what is written there would be hidden.
const HIDDEN: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

type Check = Result<(), String>;

fn shown(text: &str) -> String {
    text.escape_debug().to_string().chars().take(80).collect()
}

fn wrong(value: &str, what: &str) -> Check {
    Err(format!("`{}` {what}", shown(value)))
}

/// Absolute, without `.` and `..`, nothing that ends a line, and where it can be seen.
pub fn path(value: &str) -> Check {
    let Some(rest) = value.strip_prefix('/') else {
        return wrong(value, "is no absolute path: begin with /");
    };
    if value.len() > 1024 || value.chars().any(char::is_control) {
        return wrong(value, "can't be a path: it has at most 1024 bytes and no control characters");
    }
    if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong(value, "can't be a path: name it without `..`, `.`, `//` and a / at its end");
    }
    if let Some(over) = HIDDEN
        .iter()
        .find(|dir| value.strip_prefix(**dir).is_some_and(|r| r.is_empty() || r.starts_with('/')))
    {
        return wrong(
            value,
            &format!("would be hidden: the running system has a file system of its own at {over}"),
        );
    }
    Ok(())
}

/// Octal digits, the value.
pub fn mode(value: &str) -> Result<u32, String> {
    let digits = (3..=4).contains(&value.len()) && value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let parsed = if digits { u32::from_str_radix(value, 8).ok() } else { None };
    parsed.ok_or_else(|| {
        format!("`{}` is no mode: write three or four octal digits, as in \"0644\"", shown(value))
    })
}

/// As useradd(8) takes it.
pub fn account(value: &str) -> Check {
    let fits = (1..=32).contains(&value.len())
        && value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    match fits {
        true => Ok(()),
        false => wrong(
            value,
            "can't be the name of a user or group: write 1 to 32 of a-z, 0-9, `_` and `-`, with a letter or `_` in front",
        ),
    }
}

/// A name, or a number.
pub fn owner(value: &str) -> Check {
    match value.bytes().all(|b| b.is_ascii_digit()) && value.parse::<u32>().is_ok() {
        true => Ok(()),
        false => account(value),
    }
}

/// Nothing that ends a field of passwd(5), or its line.
pub fn field(value: &str) -> Check {
    match value.contains(':') || value.chars().any(char::is_control) {
        true => wrong(value, "can't stand in passwd or shadow: it has a colon or a control character"),
        false => Ok(()),
    }
}

/// As crypt(5) writes it; a word in clear would be taken for a hash that nothing fits.
pub fn password_hash(value: &str) -> Check {
    field(value)?;
    let fits = value.starts_with('$') && value.len() >= 20 && value.bytes().all(|b| b.is_ascii_graphic());
    match fits {
        true => Ok(()),
        false => {
            Err("this is no password hash of crypt(5): make one with `mkpasswd` or `openssl passwd -6`"
                .into())
        }
    }
}

/// One line of authorized_keys(5).
pub fn ssh_key(value: &str) -> Check {
    const KINDS: [&str; 4] = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
    if value.chars().any(char::is_control) {
        return wrong(value, "is no SSH key: it has more than one line, or control characters");
    }
    // Options may stand in front of the kind.
    let words: Vec<&str> = value.split(' ').collect();
    let key = words.iter().position(|w| KINDS.iter().any(|k| w.starts_with(k)));
    let blob = key.and_then(|at| words.get(at + 1));
    match blob.is_some_and(|b| b.len() >= 16 && b.starts_with("AAAA")) {
        true => Ok(()),
        false => wrong(value, "is no SSH key: write a line of a .pub file, as in `ssh-ed25519 AAAA… name`"),
    }
}

/// RFC 1123.
pub fn hostname(value: &str) -> Check {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // Linux keeps 64 bytes of it.
    match value.len() <= 64 && value.split('.').all(label) {
        true => Ok(()),
        false => wrong(
            value,
            "can't be a host name: letters, digits and `-` in parts of 1 to 63 with `.` between, 64 in all",
        ),
    }
}

/// An address.
pub fn address(value: &str) -> Check {
    match value.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => wrong(value, "is no address: write as in 10.0.0.1 or 2001:db8::1"),
    }
}

/// An address and the length of its prefix.
pub fn cidr(value: &str) -> Check {
    let fits = value.split_once('/').is_some_and(|(addr, prefix)| {
        let most = match addr.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        prefix.parse::<u8>().is_ok_and(|p| p <= most)
    });
    match fits {
        true => Ok(()),
        false => wrong(value, "is no address with a prefix: write as in 10.0.0.5/24 or 2001:db8::5/64"),
    }
}

/// The name of an interface; `*` and `?` stand for others.
pub fn interface(value: &str) -> Check {
    let fits = (1..=15).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-*?".contains(&b));
    match fits {
        true => Ok(()),
        false => wrong(value, "is no name of an interface: 1 to 15 of a-z, A-Z, 0-9, `._-` and `*`"),
    }
}

/// Folders of the image that a volume would hide.
const IMAGES: [&str; 8] = ["/bin", "/boot", "/etc", "/lib", "/lib64", "/sbin", "/usr", "/root/.ssh"];

/// Where a volume may be mounted.
pub fn mount(value: &str) -> Check {
    path(value)?;
    let hides =
        |dir: &&&str| value.strip_prefix(**dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match IMAGES.iter().find(hides) {
        Some(dir) => wrong(value, &format!("can't be a volume: {dir} is the image's own")),
        None => Ok(()),
    }
}

/// A label that the file system has room for.
pub fn label(value: &str, filesystem: &str) -> Check {
    let most = if filesystem == "xfs" { 12 } else { 16 };
    let fits = (1..=most).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !value.starts_with('-');
    match fits {
        true => Ok(()),
        false => wrong(
            value,
            &format!("can't be a label of {filesystem}: write 1 to {most} of a-z, A-Z, 0-9 and `._-`"),
        ),
    }
}

/// What tells a disk from others: a serial number, a path.
pub fn disk(value: &str) -> Check {
    let fits = (1..=64).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
    match fits {
        true => Ok(()),
        false => wrong(
            value,
            "can't be a disk's path or serial number: write it as `init` shows it, without blanks",
        ),
    }
}

/// Bytes, as in `100G`.
pub fn size(value: &str) -> Result<u64, String> {
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let (digits, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((value.strip_suffix(unit)?, *shift)))
        .unwrap_or((value, 0));
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let bytes = digits.parse::<u64>().ok().filter(|_| plain).and_then(|n| n.checked_mul(1_u64 << shift));
    bytes.ok_or_else(|| {
        format!("`{}` is no size: write as in 512M, 100G or 2T (powers of 1024)", shown(value))
    })
}

/// The part of a file name that we choose.
pub fn word(value: &str) -> Check {
    let fits = (1..=64).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    match fits {
        true => Ok(()),
        false => wrong(value, "can't be this name: write 1 to 64 of a-z, A-Z, 0-9, `_` and `-`"),
    }
}

/// JSON that says which version of Ignition's format it is.
pub fn ignition(value: &str) -> Check {
    let document: serde_json::Value =
        serde_json::from_str(value).map_err(|e| format!("this is no JSON: {e}"))?;
    match document.pointer("/ignition/version").and_then(|v| v.as_str()) {
        Some(version) if version.starts_with("3.") => Ok(()),
        Some(version) => {
            wrong(version, "is a version of Ignition's format that is not known: write 3.0.0 to 3.x")
        }
        None => Err("it names no ignition.version: write {\"ignition\": {\"version\": \"3.4.0\"}, …}".into()),
    }
}

/// What cloud-init takes for user data.
pub fn user_data(value: &str) -> Check {
    // multipart archives begin with their headers.
    let known = ["#cloud-config", "#!", "## template: jinja", "#include", "#cloud-boothook", "Content-Type:"];
    match known.iter().any(|k| value.starts_with(k)) {
        true => Ok(()),
        false => Err("cloud-init doesn't know what this is: begin with #cloud-config, #! or another header that it knows".into()),
    }
}
