//! A network of its own: a switch (bridges) in one namespace, each host in another.
//!
//! The switch has a namespace of its own because a bridge inside the server's answers ARP for the
//! server's address: the first packets of a boot then go to the wrong place.
//!
//! Nothing is made in the namespace we run in. Names carry our process id and its start time, so
//! that what a killed process left behind is told from what a living one uses.

use super::{
    LabError,
    process::{Running, output_within, succeed, tethered},
};
use crate::model::Mac;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// Bound for each `ip` command; they take milliseconds.
const TOOL: Duration = Duration::from_secs(30);
/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";
const PREFIX: &str = "pristine";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

/// A switch and what is plugged into it. Dropping it ends every process in its namespaces and
/// removes them; hosts hold it, so the order of drops doesn't matter.
#[derive(Clone, Debug)]
pub struct Net {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    switch: Namespace,
    ports: AtomicU32,
    segments: Mutex<Vec<String>>,
}

impl Net {
    /// A switch with one segment, `sw0`, and nobody on it. Removes what dead processes left.
    pub fn new() -> Result<Net, LabError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        SWEPT.call_once(sweep);
        let me = std::process::id();
        let start = start_time(me).unwrap_or_default();
        let id = format!("{PREFIX}-{me}-{start}-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let switch = Namespace::new(format!("{id}-switch"))?;
        switch.set("ipv6/conf/default/disable_ipv6", "1")?;
        let inner = Inner { id, switch, ports: AtomicU32::new(0), segments: Mutex::new(Vec::new()) };
        let net = Net { inner: Arc::new(inner) };
        net.segment("sw0")?;
        Ok(net)
    }

    /// A host on `sw0` with an address such as `198.18.0.1/24` on its interface `eth0`.
    pub fn host(&self, name: &str, cidr: &str) -> Result<Host, LabError> {
        let host = self.bare_host(name)?;
        host.plug("sw0", "eth0", None, Some(cidr))?;
        Ok(host)
    }

    /// A host on `sw0` whose interface `eth0` is up and has no address yet: a DHCP client.
    pub fn client(&self) -> Result<Host, LabError> {
        let host = self.bare_host("client")?;
        host.plug("sw0", "eth0", None, None)?;
        Ok(host)
    }

    /// As [`Net::client`], with a MAC of one's choice.
    pub fn client_with_mac(&self, mac: Mac) -> Result<Host, LabError> {
        let host = self.bare_host("client")?;
        host.plug("sw0", "eth0", Some(mac), None)?;
        Ok(host)
    }

    /// A host with no interface but `lo`; see [`Host::plug`].
    pub fn bare_host(&self, name: &str) -> Result<Host, LabError> {
        let n = self.inner.ports.fetch_add(1, Ordering::Relaxed);
        let ns = Namespace::new(format!("{}-{name}{n}", self.inner.id))?;
        // No duplicate-address detection: link-local addresses are there at once.
        ns.set("ipv6/conf/default/accept_dad", "0")?;
        ns.ip(&["link", "set", "lo", "up"])?;
        let private = std::env::temp_dir().join(&ns.name);
        Ok(Host { private, ns, net: self.clone() })
    }

    /// A tap on `sw0` for a virtual machine, whose process must run by [`Net::command`].
    pub fn tap(&self) -> Result<Tap, LabError> {
        let n = self.inner.ports.fetch_add(1, Ordering::Relaxed);
        let name = format!("tap{n}");
        let switch = &self.inner.switch;
        switch.ip(&["tuntap", "add", &name, "mode", "tap"])?;
        switch.ip(&["link", "set", &name, "master", "sw0", "up"])?;
        Ok(Tap { name, net: self.clone() })
    }

    /// A command that runs on the switch itself, beside its taps and ports (QEMU, tcpdump).
    pub fn command(&self, program: &str) -> Command {
        self.inner.switch.command(program)
    }

    /// Makes the segment (a bridge) `name` if it isn't there: `sw1` for a second subnet.
    fn segment(&self, name: &str) -> Result<(), LabError> {
        let mut segments = self.inner.segments.lock().unwrap_or_else(|e| e.into_inner());
        if !segments.iter().any(|s| s == name) {
            let switch = &self.inner.switch;
            // No spanning tree, no snooping: a port forwards from its first frame on.
            let bridge = ["type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"];
            switch.ip(&[&["link", "add", name][..], &bridge].concat())?;
            switch.ip(&["link", "set", name, "up"])?;
            segments.push(name.to_owned());
        }
        Ok(())
    }
}

impl Net {
    /// Makes what an iPXE ROM asks on this port look like an ordinary vendor's PXE ROM: QEMU has no
    /// other ROM, and a service that recognises iPXE would never send it a boot program.
    ///
    /// Renames options 77 and 175 of its DHCP packets to 225 and 226 (site-specific ones, RFC 3942),
    /// where iPXE puts them. Only packets without the broadcast flag: the ROM of Debian 12 (2019)
    /// leaves it out, the `undionly.kpxe` that comes after it (2025) sets it and passes untouched.
    pub fn dress_as_vendor_rom(&self, tap: &Tap) -> Result<(), LabError> {
        // Offsets in bytes into the UDP datagram, as `nft` wants them in bits: BOOTP begins at 8,
        // its flags at 10, its options at 240, and 50 bytes later comes option 77.
        let at = |bootp: u32, bits: u32| format!("@th,{},{bits}", (8 + bootp) * 8);
        let (flags, user, ipxe) = (at(10, 16), at(290, 8), at(321, 8));
        let port = tap.name();
        // Checksum 0: none was computed (RFC 768).
        let rule = format!(
            "add rule bridge lab from iifname {port} udp dport 67 {flags} 0 {user} 77 {ipxe} 175 \
             {user} set 225 {ipxe} set 226 @th,48,16 set 0 counter"
        );
        let script = format!(
            "add table bridge lab\nadd chain bridge lab from {{ type filter hook prerouting priority 0; }}\n{rule}\n"
        );
        let mut command = self.command("nft");
        command.arg(script);
        succeed(command, TOOL).map(drop)
    }
}

/// A virtual machine's port on the switch; unplugged on drop.
#[derive(Debug)]
pub struct Tap {
    name: String,
    net: Net,
}

impl Tap {
    /// Interface name inside the switch's namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.net.inner.switch.ip(&["link", "del", &self.name]);
    }
}

/// A namespace with interfaces on the switch. Dropping it kills everything that runs in it,
/// daemons included.
#[derive(Debug)]
pub struct Host {
    ns: Namespace,
    private: PathBuf,
    /// Keeps the switch while a host is plugged into it.
    net: Net,
}

impl Host {
    /// A command that runs in this host's network namespace.
    pub fn command(&self, program: &str) -> Command {
        self.ns.command(program)
    }

    /// As [`Host::command`], with this host's own `/etc`, `/run`, `/var/lib/dhcp` and
    /// `/var/lib/dhcpcd`, which last as long as the host: for clients that rewrite
    /// `/etc/resolv.conf`, keep pid files or run as daemons.
    pub fn private(&self, program: &str) -> Result<Command, LabError> {
        self.make_private()?;
        let mut command = self.ns.command("sh");
        // `ip netns exec` made a mount namespace of its own already.
        let script = r#"p=$1; shift
            for d in etc run var/lib/dhcp var/lib/dhcpcd; do
                if [ -d "/$d" ]; then mount --bind "$p/$d" "/$d" || exit 125; fi
            done
            exec "$@""#;
        command.args(["-c", script, "sh"]).arg(&self.private).arg(program);
        Ok(command)
    }

    /// Path of a file as [`Host::private`] commands see it: `host.private_path("etc/resolv.conf")`.
    pub fn private_path(&self, inside: &str) -> PathBuf {
        self.private.join(inside)
    }

    /// Starts a command of this host; it ends when the guard is dropped.
    pub fn spawn(&self, command: Command, name: &str) -> Result<Running, LabError> {
        Running::start(command, name)
    }

    /// Runs `words` in this host to the end and asks for exit status 0; gives its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String, LabError> {
        let (program, args) =
            words.split_first().ok_or_else(|| LabError::Other("an empty command".to_owned()))?;
        let mut command = self.command(program);
        command.args(args);
        succeed(command, TOOL)
    }

    /// Runs `work` on a thread inside this host's network namespace: sockets that it opens are
    /// this host's for as long as they live, and so are those of threads that it starts.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let path = Path::new(NETNS).join(&self.ns.name);
        let file = fs::File::open(&path).map_err(LabError::file(&path))?;
        let inside = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
                .map_err(|e| LabError::File { path: path.clone(), source: e.into() })?;
            Ok(work())
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Plugs one more interface into the segment `segment` (made if new), brings it up and gives
    /// it an address if `cidr` is set.
    pub fn plug(
        &self,
        segment: &str,
        interface: &str,
        mac: Option<Mac>,
        cidr: Option<&str>,
    ) -> Result<(), LabError> {
        self.net.segment(segment)?;
        let port = format!("p{}", self.net.inner.ports.fetch_add(1, Ordering::Relaxed));
        let switch = &self.net.inner.switch;
        let peer = ["type", "veth", "peer", "name", interface, "netns", &self.ns.name];
        switch.ip(&[&["link", "add", &port][..], &peer].concat())?;
        switch.ip(&["link", "set", &port, "master", segment, "up"])?;
        if let Some(mac) = mac {
            self.ns.ip(&["link", "set", interface, "address", &mac.to_string()])?;
        }
        self.ns.ip(&["link", "set", interface, "up"])?;
        match cidr {
            Some(cidr) => self.address(interface, cidr),
            None => Ok(()),
        }
    }

    /// Adds an address such as `198.18.0.1/24`.
    pub fn address(&self, interface: &str, cidr: &str) -> Result<(), LabError> {
        self.ns.ip(&["addr", "add", cidr, "brd", "+", "dev", interface])
    }

    /// Brings an interface up or down.
    pub fn link(&self, interface: &str, up: bool) -> Result<(), LabError> {
        self.ns.ip(&["link", "set", interface, if up { "up" } else { "down" }])
    }

    /// The MAC of an interface.
    pub fn mac(&self, interface: &str) -> Result<Mac, LabError> {
        let path = format!("/sys/class/net/{interface}/address");
        let text = self.run(&["cat", &path])?;
        text.trim().parse().map_err(|e| LabError::Other(format!("{path}: {e}")))
    }

    /// The IPv4 addresses of an interface, as `198.18.0.7/24`.
    pub fn addresses(&self, interface: &str) -> Result<Vec<String>, LabError> {
        let text = self.run(&["ip", "-4", "-o", "addr", "show", "dev", interface])?;
        let after_inet = |line: &str| Some(line.split(" inet ").nth(1)?.split(' ').next()?.to_owned());
        Ok(text.lines().filter_map(after_inet).collect())
    }

    /// Name of its namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.ns.name
    }

    fn make_private(&self) -> Result<(), LabError> {
        let p = &self.private;
        if p.exists() {
            return Ok(());
        }
        for dir in ["run", "var/lib/dhcp", "var/lib/dhcpcd"] {
            fs::create_dir_all(p.join(dir)).map_err(LabError::file(p))?;
        }
        let mut copy = Command::new("cp");
        copy.args(["-a", "/etc"]).arg(p.join("etc"));
        succeed(copy, TOOL)?;
        let resolv = p.join("etc/resolv.conf");
        // May be a link to somewhere else: this host's own starts empty.
        let _ = fs::remove_file(&resolv);
        fs::write(&resolv, "").map_err(LabError::file(&resolv))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ns.clear();
        let _ = fs::remove_dir_all(&self.private);
    }
}

/// One named network namespace, removed on drop together with the processes in it.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: String) -> Result<Namespace, LabError> {
        let ns = Namespace { name };
        succeed(ip(&["netns", "add", &ns.name]), TOOL)?;
        Ok(ns)
    }

    fn ip(&self, words: &[&str]) -> Result<(), LabError> {
        succeed(ip(&[&["-n", &self.name], words].concat()), TOOL).map(drop)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = tethered("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Sets a value under `/proc/sys/net`.
    fn set(&self, key: &str, value: &str) -> Result<(), LabError> {
        let mut command = self.command("sh");
        command.args(["-c", r#"if [ -e "$1" ]; then echo "$2" > "$1"; fi"#, "sh"]);
        command.args([&format!("/proc/sys/net/{key}"), value]);
        succeed(command, TOOL).map(drop)
    }

    /// Kills every process inside, by id. They are ours: nobody else knows this namespace.
    fn clear(&self) {
        for _ in 0..5 {
            let Ok(output) = output_within(ip(&["netns", "pids", &self.name]), TOOL) else { return };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let pids: Vec<i32> = text.lines().filter_map(|l| l.trim().parse().ok()).collect();
            if pids.is_empty() {
                return;
            }
            for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.clear();
        let _ = output_within(ip(&["netns", "del", &self.name]), TOOL);
    }
}

fn ip(words: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(words);
    command
}

/// Removes the namespaces of processes that are gone.
fn sweep() {
    let Ok(entries) = fs::read_dir(NETNS) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((pid, start)) = owner(&name)
            && start_time(pid) != Some(start)
        {
            let _ = fs::remove_dir_all(std::env::temp_dir().join(&name));
            drop(Namespace { name });
        }
    }
}

/// The process that a namespace name belongs to: its id and start time.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// When a living process started, in clock ticks since boot (proc(5), field 22 of `stat`): tells it
/// from a later one with the same id.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the state is field 3, right after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use std::io::Read;

    fn namespaces_of(net: &Net) -> usize {
        let entries = fs::read_dir(NETNS).unwrap().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(&net.inner.id)).count()
    }

    #[test]
    fn hosts_reach_each_other_through_the_switch_only() {
        let net = Net::new().unwrap();
        let server = net.host("server", "198.18.0.1/24").unwrap();
        let client = net.client().unwrap();
        client.address("eth0", "198.18.0.2/24").unwrap();
        assert_eq!(client.addresses("eth0").unwrap(), ["198.18.0.2/24"]);
        let listener = server.enter(|| std::net::TcpListener::bind("198.18.0.1:0").unwrap()).unwrap();
        let to = listener.local_addr().unwrap();
        let stream = client.enter(|| std::net::TcpStream::connect_timeout(&to, TOOL)).unwrap().unwrap();
        drop(stream);
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "198.18.0.2");
        assert_eq!(accepted.read(&mut [0; 1]).unwrap(), 0);
        // Not from outside.
        assert!(std::net::TcpListener::bind("198.18.0.1:0").is_err());
    }

    #[test]
    fn a_private_host_rewrites_only_its_own_resolv_conf() {
        let before = fs::read("/etc/resolv.conf").ok();
        let net = Net::new().unwrap();
        let client = net.client().unwrap();
        let mut command = client.private("sh").unwrap();
        command
            .args(["-c", "echo nameserver 198.18.0.9 > /etc/r && mv /etc/r /etc/resolv.conf && id > /run/x"]);
        succeed(command, TOOL).unwrap();
        let own = fs::read_to_string(client.private_path("etc/resolv.conf")).unwrap();
        assert_eq!(own, "nameserver 198.18.0.9\n");
        assert_eq!(fs::read("/etc/resolv.conf").ok(), before);
        let private = client.private.clone();
        drop(client);
        assert!(!private.exists());
    }

    #[test]
    fn a_panic_removes_namespaces_and_daemons() {
        let net = Net::new().unwrap();
        let id = net.clone();
        let pid = std::sync::Mutex::new(String::new());
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let host = net.host("server", "198.18.0.1/24").unwrap();
            let _tap = net.tap().unwrap();
            // A daemon: its parent ends at once.
            let script = "setsid sleep 600 >/dev/null 2>&1 & echo $!";
            *pid.lock().unwrap() = host.run(&["sh", "-c", script]).unwrap().trim().to_owned();
            panic!("on purpose");
        }));
        assert!(result.is_err());
        assert_eq!(namespaces_of(&id), 1, "only the switch is left, which `net` still holds");
        let stat = format!("/proc/{}/stat", pid.into_inner().unwrap());
        // It was killed; on a busy machine it takes a moment to go.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
            assert!(std::time::Instant::now() < until, "the daemon lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_what_a_living_one_has_stays() {
        let dead = format!("{PREFIX}-{}-1-0-switch", std::process::id());
        let net = Net::new().unwrap();
        succeed(ip(&["netns", "add", &dead]), TOOL).unwrap();
        sweep();
        assert!(!Path::new(NETNS).join(&dead).exists());
        assert_eq!(namespaces_of(&net), 1);
        assert_eq!(owner("pristine-12-34-0-server1"), Some((12, 34)));
        assert_eq!(owner("somebody-elses"), None);
    }
}
