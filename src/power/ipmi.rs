//! IPMI 2.0 through the `ipmitool` program. The password goes in its environment, never in its arguments,
//! which every user of the host can read.

use super::{Credentials, PowerError, error::tidy};
use crate::model::{Ipmi, PowerAction, wire::PowerStatus};
use std::{io::ErrorKind, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};

const IPMITOOL: &str = "ipmitool";
/// Longest that one call of the program may take.
const LONGEST: Duration = Duration::from_secs(25);
/// Most that is read of what it prints, in bytes.
const MAX_OUTPUT: u64 = 16 << 10;

pub(super) async fn status(bmc: &Ipmi, credentials: &Credentials) -> Result<PowerStatus, PowerError> {
    let said = run(IPMITOOL, bmc, credentials, &["chassis", "power", "status"]).await?;
    let state = said.rsplit(' ').next().unwrap_or_default();
    let state = match state.to_ascii_lowercase().as_str() {
        "on" => "On",
        "off" => "Off",
        _ => return Err(PowerError::Ipmi(format!("{}: ipmitool said `{said}`", bmc.address))),
    };
    Ok(PowerStatus { state: state.to_owned(), ..PowerStatus::default() })
}

/// `uefi`: the machine's firmware is no BIOS, and takes the override as UEFI's.
pub(super) async fn act(
    bmc: &Ipmi,
    credentials: &Credentials,
    action: PowerAction,
    uefi: bool,
) -> Result<(), PowerError> {
    let run = async |words: &[&str]| run(IPMITOOL, bmc, credentials, words).await.map(drop);
    let pxe: &[&str] =
        if uefi { &["chassis", "bootdev", "pxe", "options=efiboot"] } else { &["chassis", "bootdev", "pxe"] };
    match action {
        PowerAction::On => run(&["chassis", "power", "on"]).await,
        PowerAction::Off => run(&["chassis", "power", "off"]).await,
        PowerAction::BootOnce => run(pxe).await,
        PowerAction::Cycle => {
            let off = status(bmc, credentials).await?.state == "Off";
            run(pxe).await?;
            // A reset of a machine that is off does nothing, or is refused.
            run(&["chassis", "power", if off { "on" } else { "reset" }]).await
        }
    }
}

/// Reads `HOST` or `HOST:PORT`; an IPv6 address with a port is in brackets.
pub(super) fn host_and_port(address: &str) -> Result<(&str, u16), PowerError> {
    let bad = || {
        PowerError::Settings(format!(
            "`{}` can't be the address of a BMC: write a host name or an address, as in 10.0.7.1 or bmc-7:6230",
            tidy(address)
        ))
    };
    let (host, port) = match address.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None if address.matches(':').count() > 1 => (address, None),
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let fine = (1..=253).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b))
        && !host.starts_with('-');
    let port = port.map_or(Some(623), |p| p.parse().ok()).filter(|p| *p > 0);
    port.filter(|_| fine).map(|port| (host, port)).ok_or_else(bad)
}

async fn run(
    program: &str,
    bmc: &Ipmi,
    credentials: &Credentials,
    words: &[&str],
) -> Result<String, PowerError> {
    let (host, port) = host_and_port(&bmc.address)?;
    let mut command = Command::new(program);
    // -E: the password is IPMI_PASSWORD. -N, -R: seconds for a try, tries.
    command.args(["-I", "lanplus", "-E", "-N", "3", "-R", "2", "-H", host, "-p", &port.to_string()]);
    command.args(["-U", &credentials.user]).args(words);
    command.env("IPMI_PASSWORD", credentials.password()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |why: String| PowerError::Ipmi(format!("{}: {why}", bmc.address));
    let mut child = command.spawn().map_err(|e| match e.kind() {
        ErrorKind::NotFound => PowerError::Ipmi(format!(
            "there is no program `{program}` on this host: install it (Debian's package ipmitool), or use --redfish"
        )),
        _ => failed(format!("{program} did not start: {e}")),
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (out, err) = tokio::join!(read(stdout), read(stderr));
        (out, err, child.wait().await)
    };
    let (out, err, ended) = timeout(LONGEST, work).await.map_err(|_| PowerError::Late(LONGEST))?;
    let ended = ended.map_err(|e| failed(e.to_string()))?;
    let said = |bytes: &[u8]| tidy(&credentials.hide(&String::from_utf8_lossy(bytes)));
    if ended.success() {
        return Ok(said(&out));
    }
    let words = if err.is_empty() { said(&out) } else { said(&err) };
    Err(failed(if words.is_empty() { format!("{program} failed ({ended})") } else { words }))
}

/// What comes out of a pipe, up to the bound; the rest is nobody's.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // Cut off, it is what it is.
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::{model::Secret, store::testing::TempDir};
    use std::{fs, os::unix::fs::PermissionsExt as _};

    fn bmc() -> (Ipmi, Credentials) {
        let credentials = Credentials::of("bmc", &Secret::new(b"root:hunter2\n".to_vec())).unwrap();
        (Ipmi { address: "bmc-7:6230".into(), secret: "bmc".into() }, credentials)
    }

    #[tokio::test]
    async fn the_password_is_in_the_environment_and_nowhere_else() {
        let dir = TempDir::new();
        let program = dir.path().join("ipmitool");
        let script = "#!/bin/sh\nprintf '%s ' \"$@\"; [ \"$IPMI_PASSWORD\" = hunter2 ] || exit 9\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (bmc, credentials) = bmc();
        let said = run(program.to_str().unwrap(), &bmc, &credentials, &["chassis", "power", "on"]).await;
        let wanted = "-I lanplus -E -N 3 -R 2 -H bmc-7 -p 6230 -U root chassis power on";
        assert_eq!(said.unwrap(), wanted);
        fs::write(&program, "#!/bin/sh\necho \"hunter2 is wrong\" >&2; exit 1\n").unwrap();
        let said = run(program.to_str().unwrap(), &bmc, &credentials, &[]).await.unwrap_err();
        assert_eq!(said.to_string(), "bmc-7:6230: *** is wrong");
        let said = run("/nowhere/ipmitool", &bmc, &credentials, &[]).await.unwrap_err().to_string();
        assert!(said.contains("Debian's package ipmitool"), "{said}");
    }

    #[test]
    fn an_address_is_a_host_and_can_be_nothing_else() {
        for (address, wanted) in [
            ("10.0.7.1", ("10.0.7.1", 623)),
            ("bmc-7:6230", ("bmc-7", 6230)),
            ("fd00::7", ("fd00::7", 623)),
            ("[fd00::7]:6230", ("fd00::7", 6230)),
        ] {
            assert_eq!(host_and_port(address), Ok(wanted), "{address}");
        }
        for bad in ["", "-E", "a b", "a:0", "a:x", "a:70000", "a/b", "$(reboot)"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
