//! A whole site: a switch, a server with the service, and any number of machines.

use super::{
    LabError, Service, Settings,
    follow::{Follow, OnEvent},
    net::{Host, Net},
    process::succeed,
    qemu::{Firmware, Spec, Vm, missing},
    service::SERVER_CIDR,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Bound of an orderly end of the service.
const STOP: Duration = Duration::from_secs(30);
/// Bound of a copy of the images: hundreds of megabytes.
const COPY: Duration = Duration::from_secs(300);

/// A folder that is removed on drop unless kept.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// A new one among the system's temporary files. Its path is short: Unix sockets lie in it.
    pub fn temporary(name: &str) -> Result<Folder, LabError> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pristine-{name}-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).map_err(LabError::file(&path))?;
        Ok(Folder { path, kept: false })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it behind on drop.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Copies the images in the state folder `from` into the one of a service that hasn't begun.
pub fn copy_images(from: &Path, to: &Path) -> Result<(), LabError> {
    let store = from.join("store");
    if !store.is_dir() {
        let store = store.display();
        return Err(LabError::Other(format!(
            "{store} is not there: `make images` builds the images of the lab"
        )));
    }
    fs::create_dir_all(to).map_err(LabError::file(to))?;
    let mut command = Command::new("cp");
    command.args(["--archive", "--reflink=auto"]).arg(store).arg(to);
    succeed(command, COPY).map(drop)
}

/// The site. Machines started on it end when their [`Vm`] is dropped, all else with the lab.
#[derive(Debug)]
pub struct Lab {
    follow: Follow,
    service: Service,
    server: Host,
    net: Net,
    machines: u8,
}

impl Lab {
    /// Brings up switch, server and service, and follows its boot attempts.
    pub fn up(settings: Settings, on_event: OnEvent) -> Result<Lab, LabError> {
        let missing = missing();
        if !missing.is_empty() {
            let list = missing.join("\n  ");
            return Err(LabError::Other(format!(
                "the lab needs what this system lacks:\n  {list}\nRun `make setup`."
            )));
        }
        let net = Net::new()?;
        let server = net.host("server", SERVER_CIDR)?;
        Lab::on(net, server, settings, on_event)
    }

    /// As [`Lab::up`], on a network that is there already.
    pub fn on(net: Net, server: Host, settings: Settings, on_event: OnEvent) -> Result<Lab, LabError> {
        let service = Service::start(&server, settings)?;
        let mut watch = service.command(&server);
        watch.args(["watch", "--json"]);
        let follow = Follow::start(watch, on_event)?;
        Ok(Lab { follow, service, server, net, machines: 0 })
    }

    /// A machine that nobody used yet in this lab; power it on with [`Lab::power_on`].
    pub fn machine(&mut self, firmware: Firmware) -> Spec {
        self.machines += 1;
        Spec::new(self.machines, firmware)
    }

    /// Powers a machine on. Its console log lies in the lab's folder.
    pub fn power_on(&self, spec: Spec) -> Result<Vm, LabError> {
        Vm::start(&self.net, spec, self.logs())
    }

    /// Ends the service in order, then removes everything.
    pub fn down(mut self) -> Result<(), LabError> {
        self.service.stop(STOP)
    }

    /// Folder of the consoles and of the service's log.
    pub fn logs(&self) -> &Path {
        &self.service.settings().dir
    }

    /// Runs `pristine` with these arguments on the server.
    pub fn cli(&self, words: &[&str]) -> Result<String, LabError> {
        self.service.cli(&self.server, words)
    }

    /// A command line that reaches this lab's service from another terminal.
    pub fn hint(&self) -> String {
        let mut command = self.service.command(&self.server);
        command.args(["machine", "list"]);
        super::process::shown(&command)
    }

    /// The boots, as they happen.
    pub fn follow(&self) -> &Follow {
        &self.follow
    }

    /// The service's process.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Pulls the plug of the service (kill -9). What follows its boots ends with it.
    pub fn kill_service(&mut self) {
        self.service.kill();
    }

    /// Starts the service again.
    pub fn start_service(&mut self) -> Result<(), LabError> {
        self.service.run(&self.server)
    }

    /// The switch.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The server.
    pub fn server(&self) -> &Host {
        &self.server
    }
}
