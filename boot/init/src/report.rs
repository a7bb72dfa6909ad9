//! Tells the service how the boot goes. A boot never fails because a report does.

use crate::{
    console::say,
    failure::{Doing, Result, failed},
    http::{self, Limits},
    random, stream, trust,
};
use serde::{Deserialize, Serialize};
use std::{fs, io::Write, net::SocketAddrV4, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

const PATH: &str = "/boot/report";
const FACTS: &str = "/boot/facts";
const LIMITS: Limits = Limits { connect: Duration::from_secs(2), idle: Duration::from_secs(3) };
/// Longest answer to a report: a line of text.
const MAX_ANSWER: u64 = 64 << 10;
/// Where the running image finds what it needs to say that it is healthy.
const BOOT_FILE: &str = "/run/pristine/boot.json";
const AGENT: &str = "/run/pristine/agent";

/// Who reports to whom. Kept in the running image, readable by root alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reporter {
    /// The service.
    pub server: SocketAddrV4,
    /// The boot attempt.
    pub attempt: String,
    /// Allows reports of this attempt.
    pub token: String,
}

#[derive(Serialize)]
struct Stage<'a> {
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct Failed<'a> {
    failed: &'a str,
}

impl Reporter {
    /// A step was reached.
    pub fn stage(&self, stage: &str, detail: Option<&str>) {
        if let Err(why) = self.send(PATH, &Stage { stage, detail }, 3) {
            say(format!("could not report {stage}: {why} (the boot goes on)"));
        }
    }

    /// The boot can't go on.
    pub fn failed(&self, reason: &str) {
        if let Err(why) = self.send(PATH, &Failed { failed: reason }, 4) {
            say(format!("could not report this: {why}"));
        }
    }

    /// What the machine is made of.
    pub fn facts(&self, facts: &impl Serialize) -> std::result::Result<(), String> {
        self.send(FACTS, facts, 3)
    }

    fn send(&self, path: &str, body: &impl Serialize, tries: u32) -> std::result::Result<(), String> {
        let body = serde_json::to_string(body).map_err(|e| e.to_string())?;
        let mut why = String::new();
        for nth in 1..=tries {
            match http::post(self.server, path, &self.token, &body, MAX_ANSWER, LIMITS)
                .map(|(status, _)| status)
            {
                // 409: heard before.
                Ok(200..=299 | 409) => return Ok(()),
                // The service knows better (another boot has begun, or the token is used up).
                Ok(status @ (400..=407 | 410..=424 | 426..=428)) => {
                    return Err(format!("the server answers {status}"));
                }
                Ok(status) => why = format!("the server answers {status}"),
                Err(trouble) => why = trouble.why().to_owned(),
            }
            if nth < tries {
                std::thread::sleep(crate::fetch::backoff(nth, random::below(1000)));
            }
        }
        Err(why)
    }

    /// Leaves an agent in /run, which the new root takes over, and a unit that makes systemd run it:
    /// so an image that knows nothing of Pristine reports that it is up.
    pub fn leave_agent(&self, mac: [u8; 6]) -> Result<()> {
        fs::create_dir_all("/run/pristine").doing("make /run/pristine")?;
        fs::copy("/proc/self/exe", AGENT).doing("copy the agent to /run")?;
        let mode = |n| std::os::unix::fs::PermissionsExt::from_mode(n);
        fs::set_permissions(AGENT, mode(0o755)).doing("make the agent executable")?;
        let left = Left { reporter: self.clone(), mac: crate::net::mac_text(mac) };
        let text = serde_json::to_vec(&left).doing("write boot.json")?;
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(BOOT_FILE)
            .doing("write boot.json")?;
        file.write_all(&text).doing("write boot.json")?;
        trust::leave()?;
        let units = Path::new("/run/systemd/system");
        let wants = units.join("multi-user.target.wants");
        fs::create_dir_all(&wants).doing("make systemd's unit folder")?;
        for (name, text) in [
            ("pristine-healthy.service", include_str!("pristine-healthy.service")),
            ("pristine-agent.service", include_str!("pristine-agent.service")),
        ] {
            fs::write(units.join(name), text).doing("write systemd's units")?;
        }
        std::os::unix::fs::symlink("../pristine-healthy.service", wants.join("pristine-healthy.service"))
            .doing("enable systemd's unit")
    }
}

/// What is left for the running image.
#[derive(Debug, Serialize, Deserialize)]
pub struct Left {
    /// Who reports to whom.
    #[serde(flatten)]
    pub reporter: Reporter,
    /// The NIC that booted.
    pub mac: String,
}

/// Reads it.
pub fn left() -> Result<Left> {
    let text = fs::read(BOOT_FILE).doing(format!("read {BOOT_FILE}"))?;
    serde_json::from_slice(&text).doing(format!("read {BOOT_FILE}"))
}

/// Says that the image is up, until it is heard, for about five minutes.
pub fn report_healthy(left: &Left) -> Result<()> {
    let reporter = &left.reporter;
    match reporter.send(PATH, &Stage { stage: "healthy", detail: stream::standing() }, 40) {
        Ok(()) => Ok(()),
        Err(why) => failed(format!("could not report healthy to http://{}: {why}", reporter.server)),
    }
}
