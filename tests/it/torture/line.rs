//! A line that delays frames and swaps them, in user space: not every kernel has netem.

use super::junk::Junk;
use pristine::{
    lab::{Host, Net},
    sys::{PacketSocket, links},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What is carried: what we send ourselves is not heard again then.
const KINDS: [u16; 2] = [pristine::sys::ETH_IPV4, 0x0806];
/// Frames on their way at once; more are lost.
const ROOM: usize = 2_000;

/// What a line did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    pub frames: u64,
    /// Of these, those that one behind them had overtaken.
    pub overtaken: u64,
    pub lost: u64,
}

/// Between the segments `sw0` and `sw1`. Dropping it cuts it.
pub struct Line {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Carried>>,
    _host: Host,
}

impl Line {
    /// Each frame is on its way for some time from `least` to `most`.
    pub fn new(net: &Net, least: Duration, most: Duration) -> Line {
        let host = net.bare_host("line").unwrap();
        host.plug("sw0", "eth0", None, None).unwrap();
        host.plug("sw1", "eth1", None, None).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let carry = move || {
            let ends = ["eth0", "eth1"].map(|name| {
                let index = links::interface(name).unwrap().expect("its end").index;
                KINDS.map(|kind| PacketSocket::open(index, Some(kind)).unwrap())
            });
            std::thread::spawn(move || carry(&ends, least, most, &until))
        };
        let thread = host.enter(carry).unwrap();
        Line { over, thread: Some(thread), _host: host }
    }

    /// Cuts it, and tells what it did.
    pub fn cut(mut self) -> Carried {
        self.over.store(true, Relaxed);
        self.thread.take().expect("it runs").join().unwrap()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

/// One end of a line: a socket of each kind.
type End = [PacketSocket; 2];

fn carry(ends: &[End; 2], least: Duration, most: Duration, over: &AtomicBool) -> Carried {
    let mut junk = Junk::new(23);
    let mut carried = Carried::default();
    // By when it comes out and its number: to which end.
    let mut queue: BTreeMap<(Instant, u64), (usize, Vec<u8>)> = BTreeMap::new();
    let (mut number, mut newest) = (0, [0; 2]);
    let mut buffer = vec![0; 4_096];
    while !over.load(Relaxed) {
        let now = Instant::now();
        while let Some(first) = queue.first_entry().filter(|first| first.key().0 <= now) {
            let ((_, number), (to, frame)) = first.remove_entry();
            carried.frames += 1;
            carried.overtaken += u64::from(number < newest[to]);
            newest[to] = newest[to].max(number);
            carried.lost += u64::from(ends[to][0].send(&frame).is_err());
        }
        for (from, end) in ends.iter().enumerate() {
            for socket in end {
                while let Ok(len) = socket.recv(&mut buffer) {
                    if queue.len() >= ROOM {
                        carried.lost += 1;
                        continue;
                    }
                    number += 1;
                    let mut frame = buffer[..len].to_vec();
                    finish(&mut frame);
                    let spread = (most - least).as_micros().max(1) as u64;
                    let on_its_way = least + Duration::from_micros(junk.next() % spread);
                    queue.insert((now + on_its_way, number), (1 - from, frame));
                }
            }
        }
        let next = queue.first_key_value().map_or(now + Duration::from_millis(100), |((at, _), _)| *at);
        let wait = next.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let sockets = ends.iter().flatten();
        let mut polled: Vec<PollFd<'_>> = sockets.map(|s| PollFd::new(s, PollFlags::IN)).collect();
        poll(&mut polled, Some(&wait)).unwrap();
    }
    carried
}

/// Computes the checksum that a sender on a virtual interface leaves to hardware.
fn finish(frame: &mut [u8]) {
    let Some(packet) = frame.get_mut(14..).filter(|p| p.len() >= 20 && p[0] >> 4 == 4) else { return };
    let header = usize::from(packet[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let field = match packet[9] {
        6 => 16,
        17 => 6,
        _ => return,
    };
    let (addresses, protocol) = (packet[12..20].to_vec(), packet[9]);
    let Some(segment) = packet.get_mut(header..total).filter(|s| s.len() > field + 1) else { return };
    segment[field..field + 2].fill(0);
    let length = (segment.len() as u16).to_be_bytes();
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(&addresses) + u32::from(protocol) + words(&length) + words(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !(sum as u16);
    segment[field..field + 2].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}
