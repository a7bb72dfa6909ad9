//! A rollout whose machines are rebooted over Redfish: real firmware, the real service, and sushy-tools'
//! emulator as the BMCs. Nobody touches the machines.

use super::{
    boots::{BOOT, Site, Slot, built},
    power::Identity,
};
use pristine::{
    lab::{Firmware, Host, Running, Spec, Vm},
    model::{Machine, RolloutState, wire::RolloutView},
};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

const URL: &str = "https://127.0.0.1:8443";
/// `calvin`.
const HTPASSWD: &str = "root:$2b$04$nUgudenl/f832Hn1QGkzqeiaaOO2qbENrSs4kiyilBkRosSr6a1Ky\n";

/// The id of a machine's system.
fn uuid(n: usize) -> String {
    format!("198018aa-0000-4000-8000-00000000000{n}")
}

/// sushy-emulator on the server's loopback, with a system for each machine.
fn emulator(server: &Host, folder: &Path, identity: &Identity, machines: &[Vm]) -> Running {
    let python = built("sushy/bin/python");
    fs::write(folder.join("htpasswd"), HTPASSWD).unwrap();
    let path = |name: &str| format!("{:?}", folder.join(name).to_str().unwrap());
    let system = |(n, vm): (usize, &Vm)| {
        format!(
            "{{'uuid': '{}', 'name': '{}', 'power_state': 'On', 'nics': [], 'qmp': '{}'}}",
            uuid(n),
            vm.spec().name,
            vm.bmc_socket().display()
        )
    };
    let systems: Vec<String> = machines.iter().enumerate().map(system).collect();
    let config = format!(
        "SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_STATE_DIR = {}\nSUSHY_EMULATOR_AUTH_FILE = {}\n\
         SUSHY_EMULATOR_SSL_CERT = {:?}\nSUSHY_EMULATOR_SSL_KEY = {:?}\nSUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\n\
         SUSHY_EMULATOR_LISTEN_PORT = 8443\nSUSHY_EMULATOR_FAKE_SYSTEMS = [{}]\n",
        path(""),
        path("htpasswd"),
        identity.pem,
        identity.key,
        systems.join(", ")
    );
    fs::write(folder.join("emulator.conf"), config).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sushy/emulator.py");
    let mut command = server.command(python.to_str().unwrap());
    command.arg(script).arg("--config").arg(folder.join("emulator.conf"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = server.spawn(command, "sushy-emulator").unwrap();
    let mut lines = BufReader::new(running.child().stderr.take().unwrap()).lines();
    let mut said = String::new();
    loop {
        let line = lines.next().unwrap_or_else(|| panic!("it did not start:\n{said}")).unwrap();
        if line.contains("Running on") {
            break;
        }
        said += &(line + "\n");
    }
    // What it says of each request is nobody's, but must not fill the pipe.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    running
}

#[test]
fn redfish_power_cycles_the_servers_of_a_rollout_and_nobody_touches_them() {
    let _slots = [Slot::take(), Slot::take()];
    let site = Site::up();
    let cli = |words: &[&str]| site.lab.cli(words).unwrap();
    let vms: Vec<Vm> = (1..=2).map(|n| site.power_on(n, Firmware::Bios)).collect();
    for vm in &vms {
        site.healthy(vm, &BTreeSet::new());
    }
    let folder = site.folder.path();
    let identity = Identity::make(folder, "bmc");
    let _emulator = emulator(site.lab.server(), folder, &identity, &vms);
    fs::write(folder.join("bmc.secret"), "root:calvin\n").unwrap();
    cli(&["secret", "set", "bmc", "--file", folder.join("bmc.secret").to_str().unwrap()]);
    for (n, vm) in vms.iter().enumerate() {
        let mac = vm.spec().mac.to_string();
        cli(&["power", "set", &mac, "--redfish", URL, "--secret", "bmc", "--system", &uuid(n)]);
        let unpinned = site.lab.cli(&["power", "status", &mac]).unwrap_err().to_string();
        assert!(unpinned.contains("is not pinned"), "{unpinned}");
        let fingerprint = identity.fingerprint().to_string();
        assert!(cli(&["power", "pin", &mac]).contains(&fingerprint));
        cli(&["power", "pin", &mac, &fingerprint]);
        assert!(cli(&["power", "status", &mac, "--json"]).contains(r#""state": "On""#));
    }

    let before: Vec<_> = vms.iter().map(|vm| site.lab.follow().so_far(vm.spec().mac)).collect();
    let to = ["--to", "tiny:2", "--name", "next", "--wave", "rest", "--soak", "2s"];
    cli(&[&["rollout", "start", "--select", "all"][..], &to].concat());
    for (vm, before) in vms.iter().zip(&before) {
        let boot = site.show(vm, site.lab.follow().healthy(vm.spec().mac, before, 2 * BOOT));
        assert_eq!(boot.image.unwrap().to_string(), site.digest("tiny:2"));
    }
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let view: RolloutView = serde_json::from_str(&cli(&["rollout", "show", "next", "--json"])).unwrap();
        if view.rollout.state == RolloutState::Done {
            break;
        }
        assert!(Instant::now() < end, "{view:?}");
        std::thread::yield_now();
    }
    let machines: Vec<Machine> = serde_json::from_str(&cli(&["machine", "list", "--json"])).unwrap();
    assert!(machines.iter().all(|m| m.reboot.is_none() && m.power_fault.is_none()), "{machines:?}");

    let mac = Spec::new(1, Firmware::Bios).mac.to_string();
    cli(&["power", "off", &mac]);
    assert!(cli(&["power", "status", &mac, "--json"]).contains(r#""state": "Off""#));
}
