//! Hands a socket to the kernel's nbd driver by generic netlink (`include/uapi/linux/nbd-netlink.h`). Its ioctls would
//! need unsafe code, a thread that stays in the kernel, and could not give a device whose server died another one.

use crate::failure::{Doing, Result, failed};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// The device: nothing else has used nbd before the root is there.
pub const DEVICE: &str = "/dev/nbd0";
const INDEX: u32 = 0;
/// Seconds that reads wait for another server when theirs died, before they fail.
const DEAD_TIME: u64 = 60;

const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;
/// NLM_F_REQUEST and NLM_F_ACK.
const FLAGS: u16 = 5;
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;

/// What to do with a device.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Make it serve from the socket.
    Connect = 1,
    /// End it.
    Disconnect = 2,
    /// Give it a socket for the one that died.
    Reconnect = 3,
}

/// Makes the device, of so many bytes, ask on `socket`. Reads of it wait as long as it takes.
pub fn attach(command: Command, bytes: u64, socket: BorrowedFd<'_>) -> Result<()> {
    let socket = u32::try_from(socket.as_raw_fd()).doing("name the socket")?;
    let item = attribute(1 | NESTED, &attribute(1, &socket.to_ne_bytes()));
    // Flags and read-only.
    let flags: u64 = 3;
    let attributes = [
        attribute(1, &INDEX.to_ne_bytes()),
        attribute(2, &bytes.to_ne_bytes()),
        attribute(3, &4096u64.to_ne_bytes()),
        attribute(4, &0u64.to_ne_bytes()),
        attribute(5, &flags.to_ne_bytes()),
        attribute(7 | NESTED, &item),
        attribute(8, &DEAD_TIME.to_ne_bytes()),
    ];
    order(command, &attributes.concat()).doing(format!("make {DEVICE}"))
}

/// Ends the device; what it serves must have another source by now.
pub fn detach() -> Result<()> {
    order(Command::Disconnect, &attribute(1, &INDEX.to_ne_bytes())).doing(format!("end {DEVICE}"))
}

fn order(command: Command, attributes: &[u8]) -> Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::GENERIC),
    )
    .doing("make a netlink socket")?;
    let answer = ask(&socket, CONTROLLER, GET_FAMILY, &attribute(2, b"nbd\0"))?;
    let Some(family) = family(&answer) else { return failed("this kernel has no nbd") };
    ask(&socket, family, command as u8, attributes).map(drop)
}

/// Asks, and gives the answer's attributes.
fn ask(socket: &OwnedFd, family: u16, command: u8, attributes: &[u8]) -> Result<Vec<u8>> {
    let request = message(family, command, attributes);
    rustix::net::send(socket, &request, SendFlags::empty()).doing("ask the kernel for nbd")?;
    let mut said = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    // An answer, and the acknowledgement.
    for _ in 0..8 {
        let (len, _) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())
            .doing("hear what the kernel says of nbd")?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while let Some((kind, body, next)) = split(rest) {
            rest = next;
            match (kind, body.first_chunk()) {
                (ERROR, Some(code)) => match i32::from_ne_bytes(*code) {
                    0 => return Ok(said),
                    code if code == -libc::ENOENT => return failed("this kernel has no nbd"),
                    code => return Err(std::io::Error::from_raw_os_error(-code)).doing("use nbd"),
                },
                // Behind the generic header.
                _ => said = body.get(4..).unwrap_or_default().to_vec(),
            }
        }
    }
    failed("the kernel does not come to the end of its answer about nbd")
}

/// A request: netlink's header, generic netlink's, attributes.
fn message(family: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let (sequence, sender) = (1u32, 0u32);
    [
        &len.to_ne_bytes()[..],
        &family.to_ne_bytes(),
        &FLAGS.to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &sender.to_ne_bytes(),
        &[command, 1, 0, 0],
        attributes,
    ]
    .concat()
}

/// An attribute, padded to whole words.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut out = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The first message: its kind, its body, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (kind, _) = rest.split_first_chunk()?;
    let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
    let body = bytes.get(16..len)?;
    Some((u16::from_ne_bytes(*kind), body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The number that the kernel gives a family, of the attributes that describe it.
fn family(mut attributes: &[u8]) -> Option<u16> {
    loop {
        let (len, rest) = attributes.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let len = usize::from(u16::from_ne_bytes(*len)).max(4);
        if u16::from_ne_bytes(*kind) == 1 {
            return attributes.get(4..len)?.first_chunk().map(|id| u16::from_ne_bytes(*id));
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn messages_and_attributes_have_the_kernels_form() {
        let name = attribute(2, b"nbd\0x");
        assert_eq!(
            name,
            [9u16.to_ne_bytes(), 2u16.to_ne_bytes()]
                .concat()
                .into_iter()
                .chain(*b"nbd\0x\0\0\0")
                .collect::<Vec<u8>>()
        );
        let message = message(CONTROLLER, GET_FAMILY, &name);
        assert_eq!(message.len(), 32);
        let (kind, body, rest) = split(&message).unwrap();
        assert_eq!((kind, rest.len()), (CONTROLLER, 0));
        assert_eq!(body, [&[GET_FAMILY, 1, 0, 0][..], &name].concat());
        let two = [&message[..], &message].concat();
        assert_eq!(split(&two).unwrap().2, message);
    }

    #[test]
    fn the_family_is_found_and_what_is_cut_short_is_no_answer() {
        let said = [attribute(2, b"nbd\0"), attribute(1, &27u16.to_ne_bytes()), attribute(3, &[1, 0, 0, 0])]
            .concat();
        assert_eq!(family(&said), Some(27));
        assert_eq!(family(&attribute(2, b"nbd\0")), None);
        for len in 0..said.len() {
            let _ = family(&said[..len]);
            assert_eq!(split(&said[..len.min(15)]), None);
        }
    }
}
