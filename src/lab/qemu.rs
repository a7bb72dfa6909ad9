//! Virtual servers: QEMU with real firmware, one NIC on the lab's switch, a serial console.

use super::{
    Folder, LabError,
    console::Console,
    net::{Net, Tap},
    process::{Running, succeed, tethered},
    qmp::Qmp,
};
use crate::model::Mac;
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fmt, fs,
    io::Read,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

const QEMU: &str = "qemu-system-x86_64";
/// QEMU connects to our sockets while it parses its command line.
const START: Duration = Duration::from_secs(60);
/// Name of the control socket that is free for others.
const BMC_SOCKET: &str = "bmc";
/// Variables and code of OVMF as Debian's `ovmf` ships them.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What the machine's firmware is, and how it asks for its boot program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Firmware {
    /// SeaBIOS and QEMU's iPXE ROM, which runs the boot script itself.
    Bios,
    /// The same parts, but the switch makes the ROM's questions look like a vendor's PXE ROM
    /// (`nft` rewrites two options): it is given `undionly.kpxe` by TFTP, hands over to it, and
    /// that drives the NIC through the ROM's UNDI and asks again.
    Undionly,
    /// OVMF's own PXE client.
    UefiPxe,
    /// OVMF's own HTTP Boot client.
    UefiHttp,
}

impl Firmware {
    /// All of them.
    pub const ALL: [Firmware; 4] =
        [Firmware::Bios, Firmware::Undionly, Firmware::UefiPxe, Firmware::UefiHttp];

    fn is_uefi(self) -> bool {
        matches!(self, Firmware::UefiPxe | Firmware::UefiHttp)
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Firmware::Bios => "bios",
            Firmware::Undionly => "undionly",
            Firmware::UefiPxe => "uefi-pxe",
            Firmware::UefiHttp => "uefi-http",
        })
    }
}

/// The model of NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Nic {
    /// virtio-net: OVMF drives it itself.
    #[default]
    Virtio,
    /// Intel 82574L: OVMF drives it by the ROM's driver, the kernel by a module.
    E1000e,
}

/// One virtual server.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name, also of its console log.
    pub name: String,
    /// Its firmware.
    pub firmware: Firmware,
    /// MAC of its only NIC.
    pub mac: Mac,
    /// Memory in MiB.
    pub memory: u32,
    /// Model of its NIC.
    pub nic: Nic,
    /// What it boots by itself, as from a USB stick, without asking the network.
    pub stick: Option<Stick>,
    /// A file that is its disk, with the serial number `DATA`.
    pub disk: Option<PathBuf>,
}

/// A kernel that a machine brings with it.
#[derive(Clone, Debug)]
pub struct Stick {
    /// Kernel file.
    pub kernel: PathBuf,
    /// Initramfs file.
    pub initramfs: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
}

impl Spec {
    /// The `n`th machine of a lab: the MAC follows from `n`.
    pub fn new(n: u8, firmware: Firmware) -> Spec {
        let mac = Mac([0x52, 0x54, 0x00, 0x19, 0x80, n]);
        Spec {
            name: format!("{firmware}-{n}"),
            firmware,
            mac,
            memory: 1024,
            nic: Nic::Virtio,
            stick: None,
            disk: None,
        }
    }
}

/// A machine that is powered on. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Vm {
    spec: Spec,
    running: Running,
    qmp: Qmp,
    console: Console,
    /// Both are used by the process, and dropped after it.
    run: Folder,
    _tap: Tap,
}

impl Vm {
    /// Powers a machine on. Its console is logged to `<logs>/<name>.log`. It ends with the thread
    /// that calls this.
    pub fn start(net: &Net, spec: Spec, logs: &Path) -> Result<Vm, LabError> {
        let run = Folder::temporary("vm")?;
        let tap = net.tap()?;
        if spec.firmware == Firmware::Undionly {
            net.dress_as_vendor_rom(&tap)?;
        }
        let listen = |what: &str| {
            let path = run.path().join(what);
            UnixListener::bind(&path).map_err(LabError::file(&path)).map(|l| (path, l))
        };
        let (serial_path, serial) = listen("serial")?;
        let (qmp_path, qmp) = listen("qmp")?;
        let mut command = net.command(QEMU);
        arguments(&mut command, &spec, accel());
        command.args(["-chardev", &format!("socket,id=serial,path={}", serial_path.display())]);
        command.args(["-serial", "chardev:serial"]);
        command.args(["-qmp", &format!("unix:{}", qmp_path.display())]);
        let bmc = run.path().join(BMC_SOCKET);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", bmc.display())]);
        command.args(["-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", tap.name())]);
        if spec.firmware.is_uefi() {
            let vars = run.path().join("vars");
            fs::copy(OVMF_VARS, &vars).map_err(LabError::file(OVMF_VARS))?;
            let pflash = "if=pflash,format=raw";
            command.args(["-drive", &format!("{pflash},unit=0,readonly=on,file={OVMF_CODE}")]);
            command.args(["-drive", &format!("{pflash},unit=1,file={}", vars.display())]);
        }
        let said = run.path().join("stderr");
        let log = fs::File::create(&said).map_err(LabError::file(&said))?;
        command.stdout(Stdio::null()).stderr(log);
        let mut running = Running::start(command, QEMU)?;
        let mut connect = |listener: &UnixListener| {
            accept(listener, &mut running).map_err(|e| {
                let words = fs::read_to_string(&said).unwrap_or_default();
                LabError::Other(format!("{QEMU} for {} did not start: {e}\n{words}", spec.name))
            })
        };
        // In the order in which QEMU makes them.
        let serial = connect(&serial)?;
        let qmp = Qmp::new(connect(&qmp)?)?;
        let console = Console::new(serial, &logs.join(format!("{}.log", spec.name)))?;
        Ok(Vm { spec, running, qmp, console, run, _tap: tap })
    }

    /// What it is.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Where whoever plays its BMC reaches QEMU (QMP).
    pub fn bmc_socket(&self) -> PathBuf {
        self.run.path().join(BMC_SOCKET)
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<(), LabError> {
        self.qmp.run("system_reset").map(drop)
    }

    /// Presses the power button: the operating system shuts down, if it listens.
    pub fn press_power(&mut self) -> Result<(), LabError> {
        self.qmp.run("system_powerdown").map(drop)
    }

    /// Waits until it has powered itself off.
    pub fn off_within(&mut self, bound: Duration) -> Result<(), LabError> {
        self.running.wait_within(bound).map(drop)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.running.kill();
    }
}

/// The machine's parts; its sockets, disks of firmware and tap are the caller's.
fn arguments(command: &mut Command, spec: &Spec, accel: Accel) {
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
    // No graphics: SeaBIOS then speaks on the serial line, and so does its iPXE ROM.
    command.args(["-machine", "q35,graphics=off", "-m", &spec.memory.to_string(), "-smp", "1"]);
    command.args(match accel {
        Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
        // x86-64-v2 and a random number instruction. `max` costs a Debian boot a third more: the
        // C library then takes AVX2 code, which QEMU translates slowly.
        Accel::Tcg => ["-accel", "tcg", "-cpu", "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16"],
    });
    // A kernel without entropy waits for it.
    command.args(["-device", "virtio-rng-pci"]);
    let [.., a, b] = spec.mac.0;
    command.args(["-uuid", &format!("198018{a:02x}-0000-4000-8000-0000000000{b:02x}")]);
    command.args(["-smbios", &format!("type=1,manufacturer=Pristine,product=Lab,serial=LAB-{}", spec.name)]);
    let mut device = match spec.nic {
        Nic::Virtio => "virtio-net-pci".to_owned(),
        Nic::E1000e => "e1000e".to_owned(),
    };
    device += &format!(",netdev=net,mac={},bootindex=1", spec.mac);
    if spec.firmware.is_uefi() && spec.nic == Nic::Virtio {
        // Without this the ROM's iPXE takes the NIC from OVMF's own network stack.
        device += ",romfile=";
    }
    command.args(["-device", &device]);
    if let Some(disk) = &spec.disk {
        command.args(["-drive", &format!("if=none,id=data,format=raw,file={}", disk.display())]);
        command.args(["-device", "virtio-blk-pci,drive=data,serial=DATA"]);
    }
    if let Some(stick) = &spec.stick {
        command.arg("-kernel").arg(&stick.kernel).arg("-initrd").arg(&stick.initramfs);
        command.args(["-append", &stick.cmdline]);
    }
    match spec.firmware {
        // Nothing else to boot: like most servers, start over.
        Firmware::Bios | Firmware::Undionly => command.args(["-boot", "menu=off,reboot-timeout=3000"]),
        Firmware::UefiPxe => command.args(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]),
        // Each address family and protocol in front of HTTP over IPv4 costs a minute.
        Firmware::UefiHttp => command.args([
            "-fw_cfg",
            "name=opt/org.tianocore/IPv4PXESupport,string=n",
            "-fw_cfg",
            "name=opt/org.tianocore/IPv6PXESupport,string=n",
        ]),
    };
}

/// Accepts QEMU's connection, or tells that it ended instead.
fn accept(listener: &UnixListener, running: &mut Running) -> Result<UnixStream, LabError> {
    let step = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let end = std::time::Instant::now() + START;
    while std::time::Instant::now() < end {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, Some(&step)) {
            Ok(0) => {
                if let Some(status) = running.ended() {
                    return Err(LabError::Other(format!("it ended ({status})")));
                }
            }
            Ok(_) => return listener.accept().map(|(s, _)| s).map_err(LabError::file(QEMU)),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(LabError::Other(format!("poll: {e}"))),
        }
    }
    Err(LabError::Late { what: "QEMU's connection".to_owned(), bound: START })
}

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor runs them.
    Kvm,
    /// QEMU translates them.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accel::Kvm => "KVM",
            Accel::Tcg => "TCG (no usable KVM: everything takes several times longer)",
        })
    }
}

/// KVM where it truly runs a firmware, else TCG. `/dev/kvm` alone proves nothing: in a virtual
/// machine it may exist and fail. Tried once a process; `PRISTINE_LAB_ACCEL=tcg` forbids KVM.
pub fn accel() -> Accel {
    static ACCEL: OnceLock<Accel> = OnceLock::new();
    *ACCEL.get_or_init(|| {
        let forbidden = std::env::var_os("PRISTINE_LAB_ACCEL").is_some_and(|v| v == "tcg");
        if !forbidden && kvm_runs_firmware(Duration::from_secs(5)) { Accel::Kvm } else { Accel::Tcg }
    })
}

/// Whether SeaBIOS says its first word on the debug port under KVM.
fn kvm_runs_firmware(bound: Duration) -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let mut command = tethered(QEMU);
    command.args(["-accel", "kvm", "-cpu", "host", "-nodefaults", "-display", "none", "-m", "64"]);
    command.args(["-debugcon", "stdio"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut running) = Running::start(command, QEMU) else { return false };
    let Some(mut stdout) = running.child().stdout.take() else { return false };
    let end = std::time::Instant::now() + bound;
    let mut text: Vec<u8> = Vec::new();
    let mut buffer = [0u8; 512];
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(1..) => {}
            _ => return false,
        }
        match stdout.read(&mut buffer) {
            Ok(n @ 1..) => text.extend(buffer.iter().take(n)),
            _ => return false,
        }
        if text.windows(7).any(|w| w == b"SeaBIOS") {
            return true;
        }
    }
}

/// What the lab needs from the system and doesn't find, each with the Debian package that has it.
pub fn missing() -> Vec<String> {
    let tool = |name: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", "command -v \"$1\" >/dev/null", "sh", name]);
        succeed(command, START).is_ok()
    };
    let mut out = Vec::new();
    let tools =
        [("ip", "iproute2"), ("setpriv", "util-linux"), ("nft", "nftables"), (QEMU, "qemu-system-x86")];
    for (name, package) in tools {
        if !tool(name) {
            out.push(format!("{name} (Debian package {package})"));
        }
    }
    let files = [
        (OVMF_CODE, "ovmf"),
        (OVMF_VARS, "ovmf"),
        ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu"),
        ("/dev/net/tun", "none: the kernel's `tun` module"),
    ];
    for (path, package) in files {
        if !Path::new(path).exists() {
            out.push(format!("{path} (Debian package {package})"));
        }
    }
    out
}
