//! The fleet's relay agent: DHCP of thousands of machines through one socket, as a router's relay has it
//! (RFC 2131, RFC 1542), and a link that loses packets.

use super::dice::Dice;
use crate::model::Mac;
use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{Instant, timeout_at},
};

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const OPTIONS_AT: usize = 240;
/// First wait for an answer; doubled with each try, as firmware does.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const TRIES: u32 = 6;

/// Who a DHCP packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// UEFI firmware (x86-64).
    Firmware,
    /// iPXE with HTTP.
    Ipxe,
    /// The initramfs' `init`.
    Init,
}

/// What a machine got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its address.
    pub addr: Ipv4Addr,
    /// Boot file or URL; empty where none was named.
    pub file: String,
}

/// The relay agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Relay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: UdpSocket,
    giaddr: Ipv4Addr,
    server: SocketAddrV4,
    dice: Dice,
    loss: f64,
    /// Packets that were sent or came: each draws whether it is lost.
    packets: AtomicU64,
    waiting: Mutex<HashMap<u32, mpsc::Sender<Vec<u8>>>>,
}

impl Relay {
    /// Listens at `giaddr`, its address in the machines' subnet, and hands requests to the server.
    pub async fn open(giaddr: Ipv4Addr, server: Ipv4Addr, dice: Dice, loss: f64) -> io::Result<Relay> {
        let socket = UdpSocket::bind((giaddr, 67)).await?;
        // A whole hall answers at once.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 8 << 20);
        let inner = Inner {
            socket,
            giaddr,
            server: SocketAddrV4::new(server, 67),
            dice,
            loss,
            packets: AtomicU64::new(0),
            waiting: Mutex::default(),
        };
        Ok(Relay(Arc::new(inner)))
    }

    /// Hands each answer to who asked; for ever.
    pub async fn run(self) {
        let mut packet = vec![0; 2_048];
        loop {
            let Ok((len, _)) = self.0.socket.recv_from(&mut packet).await else { continue };
            let Some(packet) = packet.get(..len) else { continue };
            let Some(xid) = field::<4>(packet, 4).map(u32::from_be_bytes) else { continue };
            if self.lost() {
                continue;
            }
            let to = self.waiting().get(&xid).cloned();
            if let Some(to) = to {
                // One that has enough in hand is served by what it has.
                let _ = to.try_send(packet.to_vec());
            }
        }
    }

    /// Gets an address: DISCOVER, OFFER, REQUEST, ACK. `None`: nobody answered, or it was refused.
    pub async fn bind(&self, mac: Mac, client: Client, nth: u64) -> Option<Bound> {
        let xid = u32::try_from(self.0.dice.number(mac, "xid", nth) >> 32).unwrap_or_default();
        let (to, mut answers) = mpsc::channel(4);
        self.waiting().insert(xid, to);
        let bound = self.exchange(mac, client, xid, &mut answers).await;
        self.waiting().remove(&xid);
        bound
    }

    async fn exchange(
        &self,
        mac: Mac,
        client: Client,
        xid: u32,
        answers: &mut mpsc::Receiver<Vec<u8>>,
    ) -> Option<Bound> {
        let ask = |kind, more: &[(u8, &[u8])]| self.message(mac, client, xid, kind, more);
        let offer = self.until(&ask(1, &[]), 2, answers).await?;
        let addr = Ipv4Addr::from(field::<4>(&offer, 16)?);
        let server = option(&offer, 54)?;
        let request = ask(3, &[(50, &addr.octets()), (54, &server)]);
        let ack = self.until(&request, 5, answers).await?;
        Some(Bound { addr: Ipv4Addr::from(field::<4>(&ack, 16)?), file: boot_file(&ack) })
    }

    /// Sends until an answer of this type comes. `None` also where the server says no.
    async fn until(&self, packet: &[u8], kind: u8, answers: &mut mpsc::Receiver<Vec<u8>>) -> Option<Vec<u8>> {
        for n in 0..TRIES {
            if !self.lost() {
                // Lost where it can't be sent.
                let _ = self.0.socket.send_to(packet, self.0.server).await;
            }
            let end = Instant::now() + FIRST_WAIT * (1 << n.min(4));
            while let Ok(Some(answer)) = timeout_at(end, answers.recv()).await {
                match option(&answer, 53)?.first() {
                    Some(found) if *found == kind => return Some(answer),
                    Some(6) => return None,
                    _ => {}
                }
            }
        }
        None
    }

    fn message(&self, mac: Mac, client: Client, xid: u32, kind: u8, more: &[(u8, &[u8])]) -> Vec<u8> {
        // BOOTREQUEST, Ethernet, 6-byte address, one hop.
        let mut out = vec![1, 1, 6, 1];
        out.extend(xid.to_be_bytes());
        out.resize(24, 0);
        out.extend(self.0.giaddr.octets());
        out.extend(mac.0);
        out.resize(236, 0);
        out.extend(COOKIE);
        let mut put = |code: u8, value: &[u8]| {
            out.push(code);
            out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
            out.extend(value.iter().take(255));
        };
        put(53, &[kind]);
        put(57, &1_472u16.to_be_bytes());
        put(55, &[1, 3, 6, 15, 43, 54, 60, 66, 67]);
        let class: &[u8] = match client {
            Client::Init => b"pristine-init",
            Client::Firmware | Client::Ipxe => b"PXEClient:Arch:00007:UNDI:003016",
        };
        put(60, class);
        if client != Client::Init {
            put(93, &[0, 7]);
            put(94, &[1, 3, 16]);
        }
        if client == Client::Ipxe {
            put(77, b"iPXE");
            // It speaks HTTP (19) and is built for EFI (36).
            put(175, &[19, 1, 1, 36, 1, 1]);
        }
        for (code, value) in more {
            put(*code, value);
        }
        out.push(255);
        out.resize(out.len().max(300), 0);
        out
    }

    /// Draws whether the next packet is lost.
    pub fn lost(&self) -> bool {
        let nth = self.0.packets.fetch_add(1, Ordering::Relaxed);
        self.0.loss > 0.0 && self.0.dice.happens(Mac([0; 6]), "loss", nth, self.0.loss)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u32, mpsc::Sender<Vec<u8>>>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A field of fixed length.
fn field<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// First value of an option.
fn option(packet: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut rest = packet.get(OPTIONS_AT..)?;
    while let Some((&code, tail)) = rest.split_first() {
        match code {
            0 => rest = tail,
            255 => return None,
            code => {
                let (&len, tail) = tail.split_first()?;
                let (value, tail) = tail.split_at_checked(usize::from(len))?;
                if code == wanted {
                    return Some(value.to_vec());
                }
                rest = tail;
            }
        }
    }
    None
}

/// Option 67, else the `file` field.
fn boot_file(packet: &[u8]) -> String {
    let bytes = option(packet, 67).or_else(|| Some(packet.get(108..236)?.to_vec())).unwrap_or_default();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
