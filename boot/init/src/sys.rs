//! The only file with `unsafe`: ioctls that no safe crate offers. Each one hands the kernel a buffer
//! that lives on this stack and is as large as the kernel's own structure.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Restricts a socket to one interface (socket(7), SO_BINDTODEVICE).
pub fn bind_to_device(socket: impl AsFd, interface: &str) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let len = interface.len() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `interface`, which outlives the call; the
    // kernel only reads.
    check(unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_ptr().cast(), len)
    })
    .map(drop)
}

/// A socket (packet(7)) that gives the data of LLDP frames which come in by the interface of this index, and
/// does not wait for them.
pub fn lldp_socket(index: u32) -> io::Result<OwnedFd> {
    const LLDP: u16 = 0x88cc;
    /// The nearest bridge: no switch hands it on (IEEE 802.1AB, 7.1).
    const GROUP: [u8; 8] = [0x01, 0x80, 0xc2, 0, 0, 0x0e, 0, 0];
    let index = libc::c_int::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes numbers only.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(LLDP.to_be())) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let at = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: LLDP.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = |n: usize| n as libc::socklen_t;
    // SAFETY: `at` is a sockaddr_ll of the length that is given; the kernel only reads it.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&at).cast(), len(size_of_val(&at))) })?;
    let member = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address: GROUP,
    };
    let (option, value) = (libc::PACKET_ADD_MEMBERSHIP, std::ptr::from_ref(&member).cast());
    // SAFETY: `member` is a packet_mreq of the length that is given; the kernel only reads it.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, value, len(size_of_val(&member)))
    })?;
    Ok(fd)
}

/// `struct ifreq` (netdevice(7)): name, then a union of 24 bytes.
#[repr(C, align(8))]
struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    union: [u8; 24],
}

impl Ifreq {
    fn new(interface: &str) -> io::Result<Ifreq> {
        let mut name = [0; libc::IFNAMSIZ];
        if interface.len() >= name.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        name.iter_mut().zip(interface.bytes()).for_each(|(to, from)| *to = from);
        Ok(Ifreq { name, union: [0; 24] })
    }

    fn put(mut self, bytes: &[u8]) -> Ifreq {
        self.union.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self
    }

    fn call(&mut self, socket: impl AsFd, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: `self` has the size (40 bytes) and alignment of the kernel's `struct ifreq`, is valid
        // for reads and writes during the call, and every request used here takes an ifreq.
        check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, std::ptr::from_mut(self)) }).map(drop)
    }
}

/// `struct sockaddr_in` as bytes: family in host order, port 0, address.
fn sockaddr(addr: Ipv4Addr) -> [u8; 16] {
    let mut out = [0; 16];
    let family = (libc::AF_INET as u16).to_ne_bytes();
    out.iter_mut().zip(family.into_iter().chain([0, 0]).chain(addr.octets())).for_each(|(to, b)| *to = b);
    out
}

/// Sets IFF_UP, leaving other flags.
pub fn set_up(socket: impl AsFd, interface: &str) -> io::Result<()> {
    let up = libc::IFF_UP as u16;
    change_flags(socket, interface, |flags| flags | up)
}

/// Takes IFF_UP away, leaving other flags.
pub fn set_down(socket: impl AsFd, interface: &str) -> io::Result<()> {
    let up = libc::IFF_UP as u16;
    change_flags(socket, interface, |flags| flags & !up)
}

fn change_flags(socket: impl AsFd, interface: &str, change: impl Fn(u16) -> u16) -> io::Result<()> {
    let mut request = Ifreq::new(interface)?;
    request.call(&socket, libc::SIOCGIFFLAGS as libc::Ioctl)?;
    let [low, high, ..] = request.union;
    let flags = change(u16::from_ne_bytes([low, high]));
    Ifreq::new(interface)?.put(&flags.to_ne_bytes()).call(&socket, libc::SIOCSIFFLAGS as libc::Ioctl)
}

/// Sets the interface's first address.
pub fn set_address(socket: impl AsFd, interface: &str, addr: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
    Ifreq::new(interface)?.put(&sockaddr(addr)).call(&socket, libc::SIOCSIFADDR as libc::Ioctl)?;
    Ifreq::new(interface)?.put(&sockaddr(mask)).call(&socket, libc::SIOCSIFNETMASK as libc::Ioctl)
}

/// Sets the interface's MTU.
pub fn set_mtu(socket: impl AsFd, interface: &str, mtu: u16) -> io::Result<()> {
    Ifreq::new(interface)?.put(&i32::from(mtu).to_ne_bytes()).call(&socket, libc::SIOCSIFMTU as libc::Ioctl)
}

/// `struct rtentry` (include/uapi/linux/route.h, LP64).
#[repr(C)]
struct Rtentry {
    pad1: libc::c_ulong,
    destination: [u8; 16],
    gateway: [u8; 16],
    mask: [u8; 16],
    flags: u16,
    pad2: i16,
    pad3: libc::c_ulong,
    pad4: *const libc::c_void,
    metric: i16,
    device: *const libc::c_char,
    mtu: libc::c_ulong,
    window: libc::c_ulong,
    irtt: u16,
}

/// Adds a route through `gateway`, or on the link where it is `None`.
pub fn add_route(
    socket: impl AsFd,
    interface: &str,
    (destination, prefix): (Ipv4Addr, u8),
    gateway: Option<Ipv4Addr>,
) -> io::Result<()> {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let name = CString::new(interface)?;
    let mut flags = libc::RTF_UP;
    if gateway.is_some() {
        flags |= libc::RTF_GATEWAY;
    }
    if prefix >= 32 {
        flags |= libc::RTF_HOST;
    }
    let mut entry = Rtentry {
        pad1: 0,
        destination: sockaddr(Ipv4Addr::from(u32::from(destination) & mask)),
        gateway: sockaddr(gateway.unwrap_or(Ipv4Addr::UNSPECIFIED)),
        mask: sockaddr(Ipv4Addr::from(mask)),
        flags,
        pad2: 0,
        pad3: 0,
        pad4: std::ptr::null(),
        metric: 0,
        device: name.as_ptr(),
        mtu: 0,
        window: 0,
        irtt: 0,
    };
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `entry` has the layout of the kernel's `struct rtentry`; `name`, which it points to,
    // lives until after the call; the kernel only reads both.
    check(unsafe { libc::ioctl(fd, libc::SIOCADDRT as libc::Ioctl, std::ptr::from_mut(&mut entry)) })
        .map(drop)
}

/// Loads a kernel, its initramfs and its command line for the start by reboot(2) (kexec_file_load(2)).
pub fn kexec_file_load(kernel: impl AsFd, initramfs: Option<impl AsFd>, cmdline: &str) -> io::Result<()> {
    const NO_INITRAMFS: libc::c_ulong = 4;
    let line = CString::new(cmdline)?;
    let (initramfs, flags) = match &initramfs {
        Some(file) => (file.as_fd().as_raw_fd(), 0),
        None => (-1, NO_INITRAMFS),
    };
    let (kernel, len) = (kernel.as_fd().as_raw_fd(), line.as_bytes_with_nul().len());
    // SAFETY: the descriptors are borrowed, so open; `line` is `len` bytes with its NUL, which the kernel only
    // reads. The call changes nothing of this process.
    let done =
        unsafe { libc::syscall(libc::SYS_kexec_file_load, kernel, initramfs, len, line.as_ptr(), flags) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;

/// The number of a loop device that is free (loop(4)).
pub fn loop_free(control: impl AsFd) -> io::Result<i32> {
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE) })
}

/// `struct loop_config` with its `struct loop_info64` spread out (include/uapi/linux/loop.h).
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Makes a loop device a read-only view of `file`, with 4,096-byte blocks.
pub fn loop_configure(device: impl AsFd, file: impl AsFd, name: &str) -> io::Result<()> {
    const READ_ONLY: u32 = 1;
    let mut file_name = [0; 64];
    file_name.iter_mut().zip(name.bytes().take(63)).for_each(|(to, from)| *to = from);
    let mut config = LoopConfig {
        fd: file.as_fd().as_raw_fd() as u32,
        block_size: 4096,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: READ_ONLY,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    let fd = device.as_fd().as_raw_fd();
    // SAFETY: `config` has the layout (304 bytes) of the kernel's `struct loop_config` and is valid
    // during the call; `file` is borrowed, so its descriptor is open.
    check(unsafe { libc::ioctl(fd, LOOP_CONFIGURE, std::ptr::from_mut(&mut config)) }).map(drop)
}

/// Bytes of a device-mapper request: `struct dm_ioctl`, one `struct dm_target_spec`, its parameters.
const DM_LEN: usize = 4096;

/// `struct dm_ioctl` (include/uapi/linux/dm-ioctl.h) with one target behind it.
#[repr(C, align(8))]
struct DmRequest {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    pad: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    pad2: [u8; 7],
    start: u64,
    length: u64,
    status: i32,
    next: u32,
    kind: [u8; 16],
    parameters: [u8; DM_LEN - 352],
}

/// SIGHUP, SIGINT and SIGTERM do nothing to this process any more, nor to what it starts.
pub fn ignore_polite_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: no handler of ours is run; SIG_IGN is a value that the kernel knows.
        let _ = unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// What to ask device-mapper.
#[derive(Clone, Copy, Debug)]
pub enum Dm<'a> {
    /// DM_DEV_CREATE.
    Create,
    /// DM_TABLE_LOAD, read-only: length in 512-byte sectors, target type, its parameters.
    Load(u64, &'a str, &'a str),
    /// DM_DEV_SUSPEND: what was begun ends, what comes waits.
    Suspend,
    /// DM_DEV_SUSPEND without the suspend flag: the loaded table becomes live.
    Resume,
}

/// One request about the device called `name`; gives its device number.
pub fn device_mapper(control: impl AsFd, name: &str, what: Dm<'_>) -> io::Result<u64> {
    const READ_ONLY: u32 = 1;
    const SUSPEND: u32 = 2;
    let mut request = DmRequest {
        version: [4, 0, 0],
        data_size: DM_LEN as u32,
        data_start: 312,
        target_count: 0,
        open_count: 0,
        flags: 0,
        event: 0,
        pad: 0,
        device: 0,
        name: [0; 128],
        uuid: [0; 129],
        pad2: [0; 7],
        start: 0,
        length: 0,
        status: 0,
        next: 0,
        kind: [0; 16],
        parameters: [0; DM_LEN - 352],
    };
    let number = match what {
        Dm::Create => 3,
        Dm::Load(..) => 9,
        Dm::Suspend | Dm::Resume => 6,
    };
    fn put(to: &mut [u8], from: &str) -> io::Result<()> {
        // One byte stays: the kernel wants a closing NUL.
        if from.len() >= to.len() || from.contains('\0') {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        to.iter_mut().zip(from.bytes()).for_each(|(to, from)| *to = from);
        Ok(())
    }
    put(&mut request.name, name)?;
    if matches!(what, Dm::Suspend) {
        request.flags = SUSPEND;
    }
    if let Dm::Load(sectors, kind, parameters) = what {
        request.flags = READ_ONLY;
        request.target_count = 1;
        request.length = sectors;
        put(&mut request.kind, kind)?;
        put(&mut request.parameters, parameters)?;
    }
    // _IOWR(0xfd, number, struct dm_ioctl)
    let code = (3u32 << 30) | (312 << 16) | (0xfd << 8) | number;
    let fd = control.as_fd().as_raw_fd();
    // SAFETY: `request` is DM_LEN bytes, as its data_size says, begins with the kernel's `struct
    // dm_ioctl`, and is valid for reads and writes during the call.
    check(unsafe { libc::ioctl(fd, code as libc::Ioctl, std::ptr::from_mut(&mut request)) })?;
    Ok(request.device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn structures_have_the_kernels_layout() {
        assert_eq!(size_of::<Ifreq>(), size_of::<libc::ifreq>());
        assert_eq!(size_of::<Rtentry>(), size_of::<libc::rtentry>());
        assert_eq!(offset_of!(Rtentry, device), offset_of!(libc::rtentry, rt_dev));
        assert_eq!(offset_of!(Rtentry, flags), offset_of!(libc::rtentry, rt_flags));
        assert_eq!((size_of::<LoopConfig>(), offset_of!(LoopConfig, flags)), (304, 60));
        assert_eq!((size_of::<DmRequest>(), offset_of!(DmRequest, start)), (DM_LEN, 312));
        assert_eq!((offset_of!(DmRequest, device), offset_of!(DmRequest, parameters)), (40, 352));
    }
}
