//! `pristine serve` as an operator starts it: the real binary, on a network of its own.

use super::{
    api::Dir,
    images::{Site, noise, squashfs},
    store::flip,
};
use pristine::lab::{Host, Net, Running};
use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::net::UnixDatagram,
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_pristine");
/// A debug build on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// A service with its log.
struct Serve {
    running: Running,
    log: mpsc::Receiver<String>,
    seen: String,
}

impl Serve {
    fn start(host: &Host, state: &Dir, args: &[&str], notify: Option<&str>) -> Serve {
        let mut command = host.command(BINARY);
        command.args(["--config", "/dev/null", "--state-dir"]).arg(&state.0).arg("serve").args(args);
        command.stderr(Stdio::piped());
        if let Some(socket) = notify {
            command.env("NOTIFY_SOCKET", socket);
        }
        let mut running = host.spawn(command, "pristine serve").unwrap();
        let stderr = running.child().stderr.take().unwrap();
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Serve { running, log, seen: String::new() }
    }

    /// Waits for a line of its log that has these words.
    #[track_caller]
    fn says(&mut self, words: &str) -> String {
        let end = Instant::now() + BOUND;
        loop {
            match self.log.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(_) => panic!("the service never said `{words}`, but:\n{}", self.seen),
            }
        }
    }

    /// Tells it to end; its exit code.
    fn stop(mut self) -> Option<i32> {
        self.running.terminate();
        self.running.wait_within(BOUND).unwrap().code()
    }
}

fn cli(host: &Host, state: &Dir, args: &[&str]) -> std::process::Output {
    let mut command = host.command(BINARY);
    command.args(["--config", "/dev/null", "--state-dir"]).arg(&state.0).args(args);
    pristine::lab::output_within(command, BOUND).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_interface_alone_serves_a_flat_network_and_keeps_its_promises_over_a_restart() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let client = net.client().unwrap();
    let state = Dir::new("serve");
    let socket = state.0.join("notify");
    let notify = UnixDatagram::bind(&socket).unwrap();
    notify.set_read_timeout(Some(BOUND)).unwrap();

    let mut serve = Serve::start(&server, &state, &["--interface", "eth0"], socket.to_str());
    serve.says("boot program snponly.efi (UEFI x86-64) is not in");
    let ready = serve.says("ready: ");
    for part in ["DHCP on eth0 (198.18.0.1)", "TFTP 198.18.0.1:69", "HTTP 0.0.0.0:8080", "API 127.0.0.1:8081"]
    {
        assert!(ready.contains(part), "{part} in: {ready}");
    }
    let mut buffer = [0u8; 64];
    let length = notify.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1");

    let dhcp = ["busybox", "udhcpc", "-n", "-q", "-f", "-t", "10", "-i", "eth0", "-s", "/bin/true"];
    client.run(&dhcp).unwrap();
    let leases = cli(&server, &state, &["lease", "list", "--json"]);
    let first: serde_json::Value = serde_json::from_slice(&leases.stdout).unwrap();
    let addr = first[0]["addr"].as_str().unwrap_or_else(|| panic!("no lease: {first}")).to_owned();
    assert!(addr.starts_with("198.18.0."), "{addr}");
    assert_eq!(first[0]["mac"], client.mac("eth0").unwrap().to_string());

    // A second service on the same state, and one on the same ports, say who is in the way.
    let again = cli(&server, &state, &["serve", "--interface", "eth0"]);
    let said = text(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("is in use by process"), "{said}");
    let other = Dir::new("serve");
    let again = cli(&server, &other, &["serve", "--interface", "eth0"]);
    let said = text(&again.stderr);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("TCP port 8081 of 127.0.0.1 is taken"), "{said}");
    assert!(said.contains("`ss -lptn 'sport = :8081'` names the holder"), "{said}");

    assert_eq!(serve.stop(), Some(0));
    let mut serve = Serve::start(&server, &state, &["--interface", "eth0"], None);
    serve.says("ready: ");
    let leases = cli(&server, &state, &["lease", "list", "--json"]);
    let after: serde_json::Value = serde_json::from_slice(&leases.stdout).unwrap();
    assert_eq!(after[0]["addr"], addr.as_str());
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn a_link_is_served_as_soon_as_it_has_an_address_and_all_else_at_once() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let state = Dir::new("serve");
    let mut serve = Serve::start(&server, &state, &["--interface", "eth0", "--interface", "eth9"], None);
    serve.says("interface eth9 does not exist");
    let ready = serve.says("ready: ");
    assert!(ready.contains("DHCP on eth9 when it is there"), "{ready}");
    serve.says("eth0: serves 198.18.0.0/24 by itself, giving out 198.18.0.128-198.18.0.254");
    let out = cli(&server, &state, &["status"]);
    assert_eq!(out.status.code(), Some(0), "the API answers: {}", text(&out.stderr));
    let udhcpc = ["busybox", "udhcpc", "-n", "-q", "-f", "-t", "10", "-i", "eth0", "-s", "/bin/true"];
    net.client().unwrap().run(&udhcpc).unwrap();

    server.plug("second", "eth9", None, Some("198.18.9.1/24")).unwrap();
    serve.says("eth9: serves 198.18.9.0/24 by itself");
    let client = net.bare_host("client").unwrap();
    client.plug("second", "eth0", None, None).unwrap();
    client.run(&udhcpc).unwrap();

    // Another address while it runs: its new network is served, the old one's leases stay on record.
    server.run(&["ip", "addr", "flush", "dev", "eth9"]).unwrap();
    serve.says("eth9 has no IPv4 address");
    server.address("eth9", "198.18.8.1/24").unwrap();
    serve.says("eth9: serves 198.18.8.0/24 by itself");
    client.run(&udhcpc).unwrap();
    let out = cli(&server, &state, &["lease", "list", "--json"]);
    let leases: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let mac = client.mac("eth0").unwrap().to_string();
    let of_client = leases.as_array().unwrap().iter().filter(|l| l["mac"] == mac.as_str());
    let networks: Vec<_> =
        of_client.map(|l| l["addr"].as_str().unwrap().rsplit_once('.').unwrap().0).collect();
    assert_eq!(networks, ["198.18.8", "198.18.9"], "{leases:#}");
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn another_dhcp_server_on_a_served_link_is_an_alarm_in_log_and_status() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let other = net.host("other", "198.18.0.2/24").unwrap();
    let (state, theirs) = (Dir::new("serve"), Dir::new("serve"));
    let mut second = Serve::start(&other, &theirs, &["--interface", "eth0"], None);
    second.says("ready: ");
    let mut serve = Serve::start(&server, &state, &["--interface", "eth0"], None);
    serve.says("another DHCP server, 198.18.0.2");
    let out = cli(&server, &state, &["status"]);
    let said = text(&out.stdout);
    assert!(said.contains("ALARM eth0: another DHCP server, 198.18.0.2"), "{said}");
    assert!(said.contains("mode = \"proxy\""), "{said}");
    let out = cli(&server, &state, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&json["alarms"][0]["about"], json["alarms"].as_array().unwrap().len()), (&"eth0".into(), 1));
    // The questions of one are no boots of the other.
    let out = cli(&other, &theirs, &["boots"]);
    assert!(text(&out.stdout).contains("no boots on record"), "{}", text(&out.stdout));
    assert_eq!((serve.stop(), second.stop()), (Some(0), Some(0)));
}

#[test]
fn the_doctor_names_what_is_in_the_way() {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let state = Dir::new("doctor");
    let taken = server.enter(|| TcpListener::bind("0.0.0.0:8080").unwrap()).unwrap();
    let out = cli(&server, &state, &["doctor", "--interface", "eth0", "--json"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    let checks: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let check = |name: &str| {
        let all = checks.as_array().unwrap();
        all.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {checks:#}")).clone()
    };
    let http = check("TCP 8080 (HTTP for machines)");
    assert_eq!(http["level"], "fail");
    let me = format!("(process {})", std::process::id());
    assert!(http["found"].as_str().unwrap().contains(&me), "{http}");
    assert_eq!(check("interface eth0")["level"], "ok");
    assert_eq!(check("UDP 67 on eth0 (DHCP)")["level"], "ok");
    assert_eq!(check("other DHCP servers on eth0")["level"], "ok");
    let nbps = check("boot programs");
    assert_eq!((&nbps["level"], &nbps["advice"]), (&"fail".into(), &"pristine nbp fetch".into()));
    drop(taken);

    // With our own service there its ports are no obstacle, but it is seen from another host.
    // Its own answers by a second cable to the same switch are no other server's.
    server.plug("sw0", "eth1", None, Some("198.18.3.1/24")).unwrap();
    let both = ["--interface", "eth0", "--interface", "eth1"];
    let mut serve = Serve::start(&server, &state, &both, None);
    serve.says("eth1: serves 198.18.3.0/24 by itself");
    let out = cli(&server, &state, &["doctor", "--interface", "eth0"]);
    let said = text(&out.stdout);
    assert!(said.contains("none answers"), "{said}");
    assert!(said.contains("held by the running service"), "{said}");
    assert!(!said.contains("taken by"), "{said}");
    let other = net.host("other", "198.18.0.2/24").unwrap();
    let out = cli(&other, &Dir::new("doctor"), &["doctor", "--interface", "eth0"]);
    let said = text(&out.stdout);
    assert!(said.contains("198.18.0.1, 198.18.3.1 answer"), "{said}");
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn damage_in_the_store_is_an_alarm_until_the_same_import_heals_it() {
    let site = Site::new();
    squashfs(&site.at(""), "rootfs", &noise(2 << 20));
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let state = Dir::new("scrubbed");
    let import = || {
        let words = site.import_words("web", &[]);
        let words: Vec<&str> = ["image"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let out = cli(&server, &state, &words);
        assert!(out.status.success(), "{}", text(&out.stderr));
    };
    import();
    let mut serve = Serve::start(&server, &state, &["--interface", "eth0"], None);
    serve.says("ready: ");
    let alarms = || {
        let out = cli(&server, &state, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        status["alarms"].clone()
    };
    assert_eq!(alarms(), serde_json::json!([]));
    let packs = std::fs::read_dir(state.0.join("store/packs")).unwrap().map(|e| e.unwrap().path());
    let pack = packs.max_by_key(|p| std::fs::metadata(p).unwrap().len()).unwrap();
    flip(&pack, 1_000_000);
    assert_eq!(cli(&server, &state, &["image", "scrub", "--rate", "0"]).status.code(), Some(1));
    let raised = alarms();
    assert_eq!(raised[0]["about"], "web:1", "{raised}");
    assert!(raised[0]["text"].as_str().unwrap().contains("import the same files again"), "{raised}");
    import();
    assert_eq!(alarms(), serde_json::json!([]));
    assert_eq!(serve.stop(), Some(0));
}
