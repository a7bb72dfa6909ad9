//! The real service, as a process in the server's namespace, and the real command line beside it.

use super::{
    LabError,
    net::Host,
    process::{Running, succeed_unless_interrupted},
};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Where the lab's service is, as its machines see it.
pub const SERVER: &str = "198.18.0.1";
/// The server's address on the switch.
pub const SERVER_CIDR: &str = "198.18.0.1/24";
const HTTP: &str = "198.18.0.1:8080";
const API: &str = "127.0.0.1:8081";
/// A debug build on a busy machine opens its sockets within seconds.
const READY: Duration = Duration::from_secs(60);
/// Bound of one command; an image import copies and hashes hundreds of megabytes.
const COMMAND: Duration = Duration::from_secs(300);

/// Whether the service gives addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is the link's DHCP server.
    #[default]
    Full,
    /// Another server gives addresses; this one adds the boot program.
    Proxy,
}

/// How to run the service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `pristine` binary.
    pub binary: PathBuf,
    /// Folder of boot programs.
    pub nbps: PathBuf,
    /// State folder: database, images, token.
    pub state: PathBuf,
    /// Folder for `pristine.toml` and `serve.log`.
    pub dir: PathBuf,
    /// Full or proxy DHCP.
    pub mode: Mode,
    /// More lines of `pristine.toml`.
    pub extra: String,
}

/// A running `pristine serve`; killed on drop.
#[derive(Debug)]
pub struct Service {
    settings: Settings,
    running: Option<Running>,
}

impl Service {
    /// Writes the configuration, starts the service on `host`'s `eth0` and waits until it answers.
    pub fn start(host: &Host, settings: Settings) -> Result<Service, LabError> {
        let config = settings.config();
        let path = settings.config_path();
        fs::write(&path, config).map_err(LabError::file(&path))?;
        let mut service = Service { settings, running: None };
        service.run(host)?;
        Ok(service)
    }

    /// Starts it again after [`Service::stop`] or [`Service::kill`].
    pub fn run(&mut self, host: &Host) -> Result<(), LabError> {
        let mut command = host.command(&self.settings.binary.to_string_lossy());
        command.arg("serve").arg("--config").arg(self.settings.config_path());
        let log = self.log_path();
        let open = |path: &Path| fs::File::options().create(true).append(true).open(path);
        let out = open(&log).map_err(LabError::file(&log))?;
        let err = out.try_clone().map_err(LabError::file(&log))?;
        command.stdout(out).stderr(err);
        let mut running = Running::start(command, "pristine serve")?;
        let end = Instant::now() + READY;
        for addr in [HTTP, API] {
            let addr: SocketAddr = addr.parse().map_err(|e| LabError::Other(format!("{addr}: {e}")))?;
            while !host.enter(|| TcpStream::connect(addr).is_ok())? {
                // Waits for the end of the process, which would be news too.
                if running.wait_within(Duration::from_millis(20)).is_ok() || Instant::now() > end {
                    let log = fs::read_to_string(&log).unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(30).collect();
                    let tail: Vec<&str> = tail.into_iter().rev().collect();
                    let tail = tail.join("\n");
                    return Err(LabError::Other(format!("pristine serve did not listen on {addr}:\n{tail}")));
                }
            }
        }
        self.running = Some(running);
        Ok(())
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self, bound: Duration) -> Result<(), LabError> {
        match self.running.take() {
            Some(mut running) => {
                running.terminate();
                running.wait_within(bound).map(drop)
            }
            None => Ok(()),
        }
    }

    /// Pulls the plug (kill -9).
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// `pristine` with our configuration, on the server: finish it with arguments.
    pub fn command(&self, host: &Host) -> Command {
        let mut command = host.command(&self.settings.binary.to_string_lossy());
        command.arg("--config").arg(self.settings.config_path());
        command
    }

    /// Runs `pristine` with these arguments to the end; its standard output, or what it said.
    pub fn cli(&self, host: &Host, words: &[&str]) -> Result<String, LabError> {
        let mut command = self.command(host);
        command.args(words);
        succeed_unless_interrupted(command, COMMAND)
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// How it was started.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it logs.
    pub fn log_path(&self) -> PathBuf {
        self.settings.dir.join("serve.log")
    }
}

impl Settings {
    fn config_path(&self) -> PathBuf {
        self.dir.join("pristine.toml")
    }

    fn config(&self) -> String {
        let mode = match self.mode {
            Mode::Full => "full",
            Mode::Proxy => "proxy",
        };
        let (state, nbps, extra) = (self.state.display(), self.nbps.display(), &self.extra);
        format!(
            r#"state_dir = "{state}"
{extra}

[nbp]
dir = "{nbps}"

[api]
listen = "{API}"

[[interface]]
name = "eth0"
mode = "{mode}"
"#
        )
    }
}
