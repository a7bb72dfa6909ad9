//! The only module with `unsafe`: socket addresses and system calls that no safe crate offers. Everything
//! here is a thin typed wrapper; what the bytes mean is decided elsewhere. [`links`] (no `unsafe`)
//! tells which interfaces there are, [`limits`] (none either) what this process may have.
#![allow(unsafe_code)]

pub mod limits;
pub mod links;

use crate::model::Mac;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    mem::size_of,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Ethertype of ARP.
pub const ETH_ARP: u16 = 0x0806;
/// Ethertype of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// Ethertype of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;

/// The `sockaddr_ll` of an interface: what a packet socket binds or sends to.
fn packet_addr(index: u32, ethertype: u16, to: Mac) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `storage` is zeroed and at least as large and aligned as any socket address
    // (`sockaddr_storage`); a `sockaddr_ll` is written within it and its true length is returned.
    let ((), addr) = unsafe {
        SockAddr::try_init(|storage, len| {
            let addr = &mut *storage.cast::<libc::sockaddr_ll>();
            addr.sll_family = libc::AF_PACKET as u16;
            addr.sll_protocol = ethertype.to_be();
            addr.sll_ifindex = index;
            addr.sll_halen = 6;
            for (to, from) in addr.sll_addr.iter_mut().zip(to.0) {
                *to = from;
            }
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(addr)
}

/// A packet socket of one interface: whole Ethernet frames in both directions. It receives frames
/// of one ethertype, or none at all when `receive` is `None` (for sending only). Non-blocking.
///
/// Errors: `PermissionDenied` without CAP_NET_RAW, `ENODEV` when the interface is gone.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    index: u32,
}

impl PacketSocket {
    /// Opens and binds it. Nothing of another interface is ever queued, because the protocol is
    /// set only by the bind.
    pub fn open(index: u32, receive: Option<u16>) -> io::Result<PacketSocket> {
        PacketSocket::open_filtered(index, receive, &[])
    }

    /// The same with a classic BPF program that chooses which frames are queued at all.
    pub fn open_filtered(
        index: u32,
        receive: Option<u16>,
        filter: &[socket2::SockFilter],
    ) -> io::Result<PacketSocket> {
        let socket = Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&packet_addr(index, receive.unwrap_or(0), Mac([0; 6]))?)?;
        Ok(PacketSocket { socket, index })
    }

    /// Sends one whole frame. `WouldBlock` when the interface's queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let (to, ethertype) = match frame {
            [a, b, c, d, e, f, _, _, _, _, _, _, hi, lo, ..] => {
                (Mac([*a, *b, *c, *d, *e, *f]), u16::from_be_bytes([*hi, *lo]))
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        self.socket.send_to(frame, &packet_addr(self.index, ethertype, to)?).map(|_| ())
    }

    /// Receives one frame, cut to the buffer. `WouldBlock` when none waits.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut &self.socket, buffer)
    }

    /// Has the interface accept frames to this multicast MAC while the socket lives.
    pub fn join(&self, group: Mac) -> io::Result<()> {
        let [a, b, c, d, e, f] = group.0;
        let request = libc::packet_mreq {
            mr_ifindex: i32::try_from(self.index).map_err(|_| io::ErrorKind::InvalidInput)?,
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: 6,
            mr_address: [a, b, c, d, e, f, 0, 0],
        };
        set_option(&self.socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// Puts a socket that owns its file descriptor on the runtime's event loop. Panics outside of a tokio
/// runtime, as all of tokio does.
pub fn registered<T: StableFd>(socket: T) -> io::Result<AsyncFd<T>> {
    registered_for(socket, Interest::READABLE | Interest::WRITABLE)
}

/// As [`registered`], for one who waits for nothing else.
pub fn registered_for<T: StableFd>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: a `StableFd` owns its one file descriptor, keeps it open until dropped and always
    // returns the same one; the types below hand out no way to replace it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// A type that owns one open file descriptor, or a share of it, for all of its life. Sealed: only the types here.
pub trait StableFd: AsRawFd + sealed::Sealed {}
impl StableFd for PacketSocket {}
impl StableFd for Socket {}
impl StableFd for Arc<TcpStream> {}

mod sealed {
    /// Keeps other modules from making promises that `registered` relies on.
    pub trait Sealed {}
    impl Sealed for super::PacketSocket {}
    impl Sealed for socket2::Socket {}
    impl Sealed for std::sync::Arc<std::net::TcpStream> {}
}

/// A routing netlink socket. `groups` is a mask of RTMGRP_* (0: only answers to own questions).
pub fn netlink_route(groups: u32) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    // SAFETY: as in `packet_addr`: a `sockaddr_nl` fits in the zeroed storage, its length is returned.
    let ((), addr) = unsafe {
        SockAddr::try_init(|storage, len| {
            let addr = &mut *storage.cast::<libc::sockaddr_nl>();
            addr.nl_family = libc::AF_NETLINK as u16;
            addr.nl_groups = groups;
            *len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&addr)?;
    Ok(socket)
}

/// `setsockopt` with a plain C struct or integer.
fn set_option<T: Copy>(fd: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which lives through the call; the kernel only
    // reads it. Callers pass the `T` that the option is documented to take.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for a receive queue of `bytes`, beyond the system's usual limit where CAP_NET_ADMIN allows
/// it: a rack that powers on together asks within milliseconds.
pub fn set_receive_queue(socket: &Socket, bytes: usize) {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &wanted).is_err() {
        // Best effort: the kernel caps it at net.core.rmem_max.
        let _ = socket.set_recv_buffer_size(bytes);
    }
}

/// Has the kernel cut what is sent on a UDP socket into datagrams of `size` bytes, the last one shorter
/// (UDP_SEGMENT, Linux 4.18); 0: nothing is cut.
///
/// # Errors
/// Where the kernel can't. Sending fails besides where the interface can't compute checksums.
pub fn cut_datagrams(socket: &impl AsRawFd, size: usize) -> io::Result<()> {
    let size = i32::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, &size)
}

/// Sends a UDP datagram from a chosen source address out of a chosen interface (IP_PKTINFO), so that
/// a host with several addresses answers from the one that the option 54 of its reply names. With `cut`, many datagrams of that
/// size, one behind the other (UDP_SEGMENT): all of them or none. Only where [`cut_datagrams`] works; a kernel that doesn't know
/// how to cut would send them as one.
pub fn send_udp_from(
    socket: &impl AsFd,
    datagram: &[u8],
    cut: Option<u16>,
    to: SocketAddrV4,
    from: Ipv4Addr,
    index: u32,
) -> io::Result<usize> {
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let to = SockAddr::from(to);
    let info = libc::in_pktinfo {
        ipi_ifindex: index,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    // u64s, so that the control buffer is aligned as `cmsghdr` must be; 64 bytes hold the 32 of one
    // header with an `in_pktinfo` and the 24 of one with a `u16`.
    let mut control = [0u64; 8];
    let mut data = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
    // SAFETY: `message` points to `to`, `data` and `control`, which all outlive the call; the kernel
    // reads but never writes through `iov_base` on a send. CMSG_FIRSTHDR and CMSG_NXTHDR are not null
    // because `msg_controllen` has room for the headers that are written, and `control` for as much.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        let of_cut = cut.map_or(0, |_| libc::CMSG_SPACE(size_of::<u16>() as u32));
        message.msg_controllen = (libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32) + of_cut) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::IPPROTO_IP;
        (*header).cmsg_type = libc::IP_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) as _;
        libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(info);
        if let Some(size) = cut {
            let header = libc::CMSG_NXTHDR(&message, header);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(size);
        }
        libc::sendmsg(socket.as_fd().as_raw_fd(), &message, libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Maps a whole file for reading. For immutable files only.
///
/// A mapping is only as constant as its file: one that is shortened while it is mapped kills the
/// process (SIGBUS) when the missing part is touched. Blobs are written once, made read-only, and
/// replaced or removed by name, which leaves a mapping of the old file as it was; the caller checks
/// their size when it opens them.
///
/// # Errors
/// What `mmap` says; an empty file can't be mapped.
pub fn map_readonly(file: &std::fs::File) -> io::Result<memmap2::Mmap> {
    // SAFETY: the mapping is read-only and private to readers of `&[u8]`. That nobody changes the
    // bytes beneath is the rule above, which the blob store keeps.
    unsafe { memmap2::MmapOptions::new().map(file) }
}

/// Whether the page of a mapped file that has the byte at `at` is in memory (`mincore`): to read it is to wait for no disk.
/// True too where that can't be told.
pub fn is_in_memory(map: &memmap2::Mmap, at: usize) -> bool {
    let Some(page) = map.get(at - at % rustix::param::page_size()) else { return true };
    let mut state = 1;
    // SAFETY: a page of the mapping begins at `page`, as mappings begin at a page, and for one page one byte is written.
    unsafe { libc::mincore(std::ptr::from_ref(page).cast_mut().cast(), 1, &raw mut state) };
    state & 1 == 1
}

/// Has the disk begin to write these bytes of a file, and waits for no disk that has room in its queue
/// (`sync_file_range`). Makes nothing durable: it is advice, that the sync to come has less to do.
pub fn begin_to_write(file: &std::fs::File, range: std::ops::Range<u64>) {
    let (Ok(offset), Ok(len)) =
        (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return;
    };
    // SAFETY: takes a descriptor, which is open for as long as `file` is borrowed, and numbers.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Time since the host booted, sleep included, which nobody sets; `None` where the kernel doesn't tell.
pub fn since_boot() -> Option<std::time::Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the right type, which the call fills.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (done == 0).then(|| std::time::Duration::new(seconds, nanos))
}

/// Whether the kernel's clock is kept in step by somebody (NTP); `None` where it doesn't tell.
pub fn clock_synchronised() -> Option<bool> {
    // SAFETY: `timex` is plain numbers, for which all zeros are valid; modes 0 only reads, and the
    // pointer is to a live value of the right type.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}
