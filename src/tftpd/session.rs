use super::{
    Files,
    live::Ticket,
    packet::{self, Code, DATA_HEADER, Mode, Request, clean_name},
    sender::Sender,
    server::Shared,
    transfer::{Step, Transfer},
};
use crate::{
    netboot::ServerAddr,
    provisioner::{FileAnswer, TransferOutcome},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, sleep_until, timeout},
};

/// IPv4 and UDP headers.
const IP_UDP_HEADERS: u32 = 28;
/// Where the link's size can't be learnt: Ethernet.
const USUAL_MTU: u32 = 1500;
/// A file that the provisioner does not give within this time is refused: the client asks again.
const OPEN_TIME: Duration = Duration::from_secs(10);

/// Serves one read request, from a port of its own, and tells how it ended.
pub(super) async fn run<F: Files>(
    shared: Arc<Shared<F>>,
    server: ServerAddr,
    peer: SocketAddrV4,
    request: Request,
    mut ticket: Ticket,
) {
    let socket = match connect(server.ip, peer).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%peer, server = %server.ip, %error, "TFTP request dropped: no socket for its transfer");
            return;
        }
    };
    let refuse = async |code, message: &str| {
        shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        // A lost refusal is asked for again.
        let _ = socket.send(&packet::error(code, message)).await;
    };
    match request.mode {
        Mode::Octet => {}
        Mode::Netascii => {
            let why = "netascii would damage a boot program: use octet (binary) mode";
            return refuse(Code::Undefined, why).await;
        }
        Mode::Other => return refuse(Code::IllegalOperation, "the mode must be octet").await,
    }
    let Some(name) = clean_name(&request.name) else {
        tracing::debug!(%peer, name = packet::printable(&request.name), "TFTP request refused: no name of a boot program");
        return refuse(Code::AccessViolation, "no name of a boot program").await;
    };
    let file = match timeout(OPEN_TIME, shared.files.open(server, peer, &name)).await {
        Ok(FileAnswer::Found(file)) => file,
        Ok(FileAnswer::NotFound) => {
            tracing::debug!(%peer, name, "TFTP: no such file");
            return refuse(Code::NotFound, "file not found").await;
        }
        Ok(FileAnswer::Refused(why)) => {
            tracing::debug!(%peer, name, why, "TFTP request refused");
            return refuse(Code::AccessViolation, &why).await;
        }
        Err(_) => {
            tracing::warn!(%peer, name, "TFTP request refused: no answer about it within 10 s");
            return refuse(Code::Undefined, "the server is busy: try again").await;
        }
    };
    let max_blksize = shared.settings.max_blksize.unwrap_or_else(|| {
        let mtu = rustix::net::sockopt::ip_mtu(&socket).unwrap_or(USUAL_MTU);
        let payload = mtu.saturating_sub(IP_UDP_HEADERS + DATA_HEADER as u32);
        u16::try_from(payload).unwrap_or(u16::MAX).clamp(8, 65_464)
    });
    let transfer = Transfer::new(file, &request.options, max_blksize);
    let outcome = drive(transfer, &socket, &mut ticket).await;
    tracing::debug!(%peer, name, ?outcome, "TFTP transfer ended");
    // The client may ask again before the outcome is written down.
    drop(ticket);
    drop(socket);
    shared.files.done(*peer.ip(), &name, outcome).await;
}

/// Bound to the address that the client asked, and connected: the kernel drops what others send
/// to this port, and tells when the client has closed its own.
async fn connect(server: Ipv4Addr, peer: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((server, 0)).await?;
    socket.connect(peer).await?;
    Ok(socket)
}

async fn drive(mut transfer: Transfer, socket: &UdpSocket, ticket: &mut Ticket) -> TransferOutcome {
    let began = Instant::now();
    let mut sender = Sender::new(socket, &transfer);
    let mut incoming = [0; 600];
    let mut step = transfer.start();
    // Set anew when it rings, not for every block: the deadline mostly moves away.
    let mut alarm = pin!(sleep_until(began + transfer.deadline()));
    loop {
        match step {
            Step::Done(outcome) => return outcome,
            Step::Wait => {}
            Step::Send(blocks) => {
                // What lies in the socket by now is no answer to these blocks. Instead of asking for more at once, which costs
                // a system call, it waits until the kernel says that something came, or the timer rings, and reads what lay there then.
                let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                if sender.send(&transfer, blocks).await.is_err() {
                    return last_word(&mut transfer, socket, began).unwrap_or_else(|| transfer.unreachable());
                }
            }
        }
        let deadline = began + transfer.deadline();
        if deadline < alarm.deadline() {
            alarm.as_mut().reset(deadline);
        }
        let received = tokio::select! {
            biased;
            received = socket.recv(&mut incoming) => Some(received),
            () = alarm.as_mut() => {
                alarm.as_mut().reset(deadline);
                waiting(socket, &mut incoming)
            }
            _ = &mut ticket.cancelled => {
                return last_word(&mut transfer, socket, began).unwrap_or_else(|| {
                    TransferOutcome::Aborted {
                        at: transfer.acknowledged(),
                        why: "the client sent another request from the same port, or the service stopped".to_owned(),
                    }
                });
            }
        };
        step = match received {
            None => transfer.timeout(began.elapsed()),
            Some(Ok(len)) => receive(&mut transfer, incoming.get(..len).unwrap_or_default(), began),
            Some(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                match last_word(&mut transfer, socket, began) {
                    Some(outcome) => Step::Done(outcome),
                    None => Step::Done(transfer.unreachable()),
                }
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "TFTP packet not received");
                tokio::time::sleep(Duration::from_millis(50)).await;
                Step::Wait
            }
        };
    }
}

/// What lies in the socket, if anything does: asks the kernel, not what the runtime knew at its last look.
fn waiting(socket: &UdpSocket, incoming: &mut [u8]) -> Option<io::Result<usize>> {
    match rustix::net::recv(socket, incoming, rustix::net::RecvFlags::DONTWAIT) {
        Ok((len, _)) => Some(Ok(len)),
        Err(rustix::io::Errno::AGAIN) => None,
        Err(error) => Some(Err(error.into())),
    }
}

/// A packet that makes no sense is passed over: the timer sees to the rest.
fn receive(transfer: &mut Transfer, datagram: &[u8], began: Instant) -> Step {
    match packet::parse_reply(datagram) {
        Ok(reply) => transfer.receive(&reply, began.elapsed()),
        Err(_) => Step::Wait,
    }
}

/// A client may acknowledge the last block, or send its error, and close its port at once: what
/// waits in the socket says how it ended.
fn last_word(transfer: &mut Transfer, socket: &UdpSocket, began: Instant) -> Option<TransferOutcome> {
    let mut incoming = [0; 600];
    for _ in 0..64 {
        match waiting(socket, &mut incoming) {
            Some(Ok(len)) => {
                let datagram = incoming.get(..len).unwrap_or_default();
                if let Step::Done(outcome) = receive(transfer, datagram, began) {
                    return Some(outcome);
                }
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return None,
        }
    }
    None
}
