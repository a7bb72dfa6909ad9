use super::transfer::Transfer;
use crate::sys;
use std::{io, ops::RangeInclusive};
use tokio::net::UdpSocket;

/// Packets below this are not worth cutting, and an OACK must be shorter than one.
const WORTH_CUTTING: usize = 512;
/// Most segments of one call (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MAX_SEGMENTS: usize = 64;
/// Largest payload of a UDP datagram, which the segments of one call must fit in.
const MAX_DATAGRAM: usize = 65_507;

/// Sends the blocks of a transfer: where the client agreed to a window, many of them in one system call, which the
/// kernel or the NIC cuts into packets.
pub(super) struct Sender<'a> {
    socket: &'a UdpSocket,
    /// Packets that one call sends.
    at_once: usize,
    buffer: Vec<u8>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(socket: &'a UdpSocket, transfer: &Transfer) -> Sender<'a> {
        let len = transfer.packet_len();
        let at_once = (MAX_DATAGRAM / len.max(1)).min(MAX_SEGMENTS);
        let cuts = transfer.window() > 1 && len > WORTH_CUTTING && sys::cut_datagrams(socket, len).is_ok();
        Sender { socket, at_once: if cuts { at_once } else { 1 }, buffer: Vec::new() }
    }

    /// # Errors
    /// Only where the client has closed its port. A link that fails may come back: as good as lost on the way.
    pub(super) async fn send(&mut self, transfer: &Transfer, blocks: RangeInclusive<u64>) -> io::Result<()> {
        let mut next = *blocks.start();
        while next <= *blocks.end() {
            let last = next.saturating_add(self.at_once as u64 - 1).min(*blocks.end());
            self.buffer.clear();
            for block in next..=last {
                transfer.packet(block, &mut self.buffer);
            }
            match self.socket.send(&self.buffer).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
                // A NIC without checksum offload, or a way with a smaller MTU.
                Err(error) if last > next => {
                    tracing::debug!(%error, "TFTP packets are sent one by one");
                    self.at_once = 1;
                    let _ = sys::cut_datagrams(self.socket, 0);
                    continue;
                }
                Err(error) => tracing::debug!(%error, "TFTP packet not sent"),
                Ok(_) => {}
            }
            next = last + 1;
        }
        Ok(())
    }
}
