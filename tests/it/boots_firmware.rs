//! The lab's own parts: each virtual server's real firmware comes up and asks as it should. Another
//! DHCP server (dnsmasq) listens, so that a fault here is not a fault of the service.

use pristine::lab::{Console, Firmware, Folder, Mark, Net, Spec, Vm, process::Running};
use std::{os::unix::net::UnixStream, time::Duration};

const BOUND: Duration = Duration::from_secs(120);

/// What dnsmasq logs when this firmware has asked.
fn question(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios | Firmware::Undionly => "vendor class: PXEClient:Arch:00000",
        Firmware::UefiPxe => "vendor class: PXEClient:Arch:00007",
        Firmware::UefiHttp => "vendor class: HTTPClient:Arch:00016",
    }
}

#[test]
fn each_firmware_comes_up_and_asks() {
    let dir = Folder::temporary("firmware").unwrap();
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let log = Console::new(ours, &dir.path().join("dnsmasq.log")).unwrap();
    let mut command = server.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping", "--log-dhcp"]);
    command.args(["--dhcp-range=198.18.0.50,198.18.0.99,5m", "--log-facility=-", "--interface=eth0"]);
    command.arg(format!("--dhcp-leasefile={}", dir.path().join("leases").display()));
    command.stderr(std::os::fd::OwnedFd::from(theirs));
    let _dnsmasq = Running::start(command, "dnsmasq").unwrap();
    log.wait_for(Mark::default(), "DHCP, IP range", BOUND).unwrap();
    for (n, firmware) in Firmware::ALL.into_iter().enumerate() {
        let mark = log.mark();
        let spec = Spec::new(n as u8, firmware);
        let mac = spec.mac;
        let vm = Vm::start(&net, spec, dir.path()).unwrap();
        log.wait_for(mark, question(firmware), BOUND).unwrap_or_else(|e| {
            panic!("{firmware}: {e}\nconsole:\n{}\ndnsmasq:\n{}", vm.console().tail(40), log.tail(40))
        });
        log.wait_for(mark, &format!("DHCPDISCOVER(eth0) {mac}"), BOUND).unwrap();
        // An iPXE says so, unless it is dressed as a vendor's ROM.
        let says_ipxe = log.between(mark, log.mark()).contains("user class: iPXE");
        assert_eq!(says_ipxe, firmware == Firmware::Bios, "{firmware}");
    }
}
