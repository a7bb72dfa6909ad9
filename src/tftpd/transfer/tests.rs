#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn file(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect::<Vec<_>>().into()
}

fn asks(blksize: u16, windowsize: u16) -> Options {
    Options { blksize: Some(blksize), windowsize: Some(windowsize), ..Options::default() }
}

fn ack(t: &mut Transfer, number: u16, now: Duration) -> Step {
    t.receive(&Reply::Ack(number), now)
}

#[test]
fn edk2s_size_probe_is_normal_and_sends_nothing_more() {
    let asked = Options { tsize: true, ..asks(1468, 4) };
    let mut t = Transfer::new(file(5000), &asked, 1468);
    assert_eq!(t.start(), Step::Send(0..=0));
    let mut oack = Vec::new();
    t.packet(0, &mut oack);
    assert_eq!(oack, b"\0\x06blksize\x001468\0tsize\x005000\0windowsize\x004\0");
    let declined = Reply::Error { code: 8, message: "User aborted the transfer".into() };
    assert_eq!(t.receive(&declined, MS), Step::Done(TransferOutcome::Probe));
}

#[test]
fn without_options_there_is_no_oack_and_blocks_are_512() {
    let mut t = Transfer::new(file(512), &Options::default(), 1468);
    assert_eq!(t.start(), Step::Send(1..=1));
    assert_eq!(ack(&mut t, 1, MS), Step::Send(2..=2), "an empty block ends a file of whole blocks");
    let mut packet = Vec::new();
    t.packet(2, &mut packet);
    assert_eq!(packet, [0, 3, 0, 2]);
    assert_eq!(ack(&mut t, 2, MS), Step::Done(TransferOutcome::Complete { bytes: 512 }));
}

#[test]
fn an_error_in_the_middle_is_an_abort_with_the_clients_words() {
    let mut t = Transfer::new(file(3000), &Options::default(), 1468);
    t.start();
    ack(&mut t, 1, MS);
    let full = Reply::Error { code: 3, message: "disk full".into() };
    let Step::Done(TransferOutcome::Aborted { at: 512, why }) = t.receive(&full, MS) else { panic!() };
    assert!(why.contains("disk full") && why.contains('3'), "{why}");
}

#[test]
fn a_doubled_ack_never_doubles_data() {
    for window in [1, 4] {
        let mut t = Transfer::new(file(100_000), &asks(512, window), 1468);
        t.start();
        let mut now = Duration::ZERO;
        let mut expected = ack(&mut t, 0, now);
        for _ in 0..20 {
            let Step::Send(blocks) = expected else { panic!("{expected:?}") };
            let number = *blocks.end() as u16;
            now += MS;
            expected = ack(&mut t, number, now);
            for _ in 0..3 {
                assert_eq!(ack(&mut t, number, now), Step::Wait);
            }
        }
    }
}

#[test]
fn a_lost_window_head_is_sent_again_after_some_round_trips_not_after_the_timer() {
    let mut t = Transfer::new(file(100_000), &asks(512, 4), 1468);
    t.start();
    ack(&mut t, 0, MS);
    assert_eq!(ack(&mut t, 4, MS * 2), Step::Send(5..=8));
    assert_eq!(ack(&mut t, 4, MS * 4), Step::Wait, "it says that it misses block 5, perhaps");
    assert_eq!(t.deadline(), MS * 4 + SOONEST_RESEND);
    assert_eq!(t.timeout(t.deadline()), Step::Send(5..=8));
}

#[test]
fn an_ack_inside_the_window_sends_what_follows_it() {
    let mut t = Transfer::new(file(100_000), &asks(512, 8), 1468);
    t.start();
    assert_eq!(ack(&mut t, 0, MS), Step::Send(1..=8));
    assert_eq!(ack(&mut t, 3, MS * 2), Step::Send(4..=11));
    assert_eq!(ack(&mut t, 2, MS * 3), Step::Wait, "an old acknowledgement");
    assert_eq!(ack(&mut t, 12, MS * 3), Step::Wait, "of a block that was never sent");
}

#[test]
fn a_client_that_acknowledges_every_block_gets_no_window_for_each() {
    let mut t = Transfer::new(file(512 * 640), &asks(512, 64), 1468);
    t.start();
    let mut step = ack(&mut t, 0, MS * 2);
    let (mut packets, mut next) = (0, 1u64);
    // When the acknowledgement of each block comes: a round trip after it was first sent.
    let mut arrives = vec![MS * 2];
    loop {
        if let Step::Send(blocks) = &step {
            packets += blocks.end() - blocks.start() + 1;
            let now = arrives[next as usize - 1];
            while arrives.len() as u64 <= *blocks.end() {
                arrives
                    .push(now.max(arrives[arrives.len() - 1] - MS * 2) + MS * 2 + Duration::from_micros(2));
            }
        } else if step != Step::Wait {
            break;
        }
        step = ack(&mut t, next as u16, arrives[next as usize]);
        next += 1;
    }
    assert_eq!(step, Step::Done(TransferOutcome::Complete { bytes: 512 * 640 }));
    assert!(packets < 3 * 641, "{packets} packets for 641 blocks");
}

#[test]
fn silence_ends_it_after_few_tries_and_names_the_byte() {
    let mut t = Transfer::new(file(3000), &Options::default(), 1468);
    t.start();
    ack(&mut t, 1, MS);
    let mut tries = 0;
    let outcome = loop {
        match t.timeout(t.deadline()) {
            Step::Send(blocks) => {
                assert_eq!(blocks, 2..=2);
                tries += 1;
            }
            Step::Done(outcome) => break outcome,
            Step::Wait => panic!(),
        }
    };
    assert_eq!(outcome, TransferOutcome::TimedOut { at: 512 });
    assert!((4..=10).contains(&tries), "{tries} tries");
    assert!(t.deadline() <= GIVE_UP + MAX_WAIT + MS);
}

#[test]
fn what_is_agreed_is_bounded_and_nothing_else_is_agreed() {
    let asked = Options { timeout: Some(200), ..asks(65_464, 65_535) };
    let t = Transfer::new(file(10), &asked, 1468);
    let mut oack = Vec::new();
    t.packet(0, &mut oack);
    assert_eq!(oack, b"\0\x06blksize\x001468\0windowsize\x0064\0");
}

#[test]
fn block_numbers_roll_over() {
    let whole = file(70_000 * 8 + 3);
    let mut t = Transfer::new(whole.clone(), &asks(8, 64), 1468);
    let (mut got, mut packet) = (Vec::new(), Vec::new());
    let mut step = t.start();
    while let Step::Send(blocks) = step {
        let last = *blocks.end();
        for block in blocks {
            packet.clear();
            t.packet(block, &mut packet);
            if block > 0 {
                assert_eq!(packet[2..4], (block as u16).to_be_bytes());
                got.extend_from_slice(&packet[4..]);
            }
        }
        step = ack(&mut t, last as u16, MS);
    }
    assert_eq!(step, Step::Done(TransferOutcome::Complete { bytes: whole.len() as u64 }));
    assert_eq!(got, whole);
}

/// A client as RFC 7440 section 4 has it, and a network that does what `fate` says to each packet:
/// loses it, doubles it, delays it.
struct World {
    now: Duration,
    /// Packets on their way: when they arrive, a number that keeps order, to the client?, bytes.
    air: std::collections::BTreeMap<(Duration, u64), (bool, Vec<u8>)>,
    sent: u64,
    fate: Vec<u8>,
}

impl World {
    fn send(&mut self, to_client: bool, packet: &[u8]) {
        self.sent += 1;
        let fate = self.fate[self.sent as usize % self.fate.len()];
        let copies = match fate % 10 {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for copy in 0..copies {
            let delay = MS * u32::from(1 + fate / 32) + MS * copy * u32::from(fate % 7);
            self.air
                .insert((self.now + delay, self.sent * 4 + u64::from(copy)), (to_client, packet.to_vec()));
        }
    }
}

/// Runs a transfer in that world. Returns what the client got, how the server says it ended, and
/// how many packets the server sent.
fn run(whole: &Bytes, blksize: u16, window: u16, fate: Vec<u8>) -> (Vec<u8>, TransferOutcome, u64) {
    let mut world = World { now: Duration::ZERO, air: Default::default(), sent: 0, fate };
    let mut t = Transfer::new(whole.clone(), &asks(blksize, window), 1468);
    let (mut got, mut expected, mut in_window, mut finished) = (Vec::new(), 1u64, 0, false);
    let mut client_timer = Duration::from_secs(1);
    let (mut packets, mut buffer) = (0, Vec::new());
    let mut step = t.start();
    loop {
        match step {
            Step::Done(outcome) => return (got, outcome, packets),
            Step::Send(blocks) => {
                for block in blocks {
                    buffer.clear();
                    t.packet(block, &mut buffer);
                    packets += 1;
                    world.send(true, &buffer);
                }
            }
            Step::Wait => {}
        }
        let timers = if finished { t.deadline() } else { t.deadline().min(client_timer) };
        let arrival = world.air.first_key_value().map(|(k, _)| k.0);
        if arrival.is_none_or(|at| at > timers) {
            world.now = timers;
            if !finished && client_timer == timers {
                client_timer = world.now + Duration::from_secs(1);
                world.send(false, &[&[0, 4][..], &((expected - 1) as u16).to_be_bytes()].concat());
                step = Step::Wait;
            } else {
                step = t.timeout(world.now);
            }
            continue;
        }
        let ((at, _), (to_client, bytes)) = world.air.pop_first().unwrap();
        world.now = at;
        step = Step::Wait;
        if !to_client {
            step = t.receive(&packet::parse_reply(&bytes).unwrap(), world.now);
            continue;
        }
        let mut reply = None;
        if bytes[1] == 6 {
            reply = (expected == 1).then_some(0);
        } else {
            let number = u16::from_be_bytes([bytes[2], bytes[3]]);
            if number == expected as u16 && !finished {
                got.extend_from_slice(&bytes[4..]);
                finished = bytes.len() - 4 < usize::from(blksize);
                in_window += 1;
                if finished || in_window == window {
                    in_window = 0;
                    reply = Some(number);
                }
                expected += 1;
            } else if in_window > 0 || number.wrapping_sub(expected as u16) >= 0x8000 {
                in_window = 0;
                reply = Some((expected - 1) as u16);
            } else {
                reply = Some((expected - 1) as u16);
            }
        }
        if let Some(number) = reply {
            client_timer = world.now + Duration::from_secs(1);
            world.send(false, &[&[0, 4][..], &number.to_be_bytes()].concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_lossy_doubling_reordering_network_still_delivers_the_right_bytes(
        len in 0usize..40_000,
        blksize in 64u16..1468,
        window in 1u16..=64,
        fate in proptest::collection::vec(any::<u8>(), 50..500),
    ) {
        let whole = file(len);
        let (got, outcome, packets) = run(&whole, blksize, window, fate);
        let blocks = len as u64 / u64::from(blksize) + 1;
        prop_assert!(packets <= blocks * 17 + 1100, "{packets} packets for {blocks} blocks");
        match outcome {
            TransferOutcome::Complete { bytes } => {
                prop_assert_eq!(bytes, len as u64);
                prop_assert_eq!(&got[..], &whole[..]);
            }
            // The fates may lose a packet every time, or the last acknowledgement: then the
            // server must not claim more than the client has.
            TransferOutcome::TimedOut { at } | TransferOutcome::Aborted { at, .. } => {
                prop_assert!(at <= got.len() as u64);
                prop_assert_eq!(&got[..], &whole[..got.len()]);
            }
            TransferOutcome::Probe => prop_assert!(false),
        }
    }

    #[test]
    fn a_network_that_only_doubles_costs_no_data_twice(
        len in 0usize..40_000,
        blksize in 64u16..1468,
        window in 1u16..=64,
    ) {
        // Fate 1: every packet comes twice, in order, at once.
        let (got, outcome, packets) = run(&file(len), blksize, window, vec![1]);
        prop_assert_eq!(outcome, TransferOutcome::Complete { bytes: len as u64 });
        prop_assert_eq!(&got[..], &file(len)[..]);
        prop_assert_eq!(packets, len as u64 / u64::from(blksize) + 2);
    }

    #[test]
    fn no_sequence_of_packets_breaks_it(
        events in proptest::collection::vec((any::<u16>(), 0u8..3), 0..400),
        window in 1u16..=100,
    ) {
        let mut t = Transfer::new(file(20_000), &asks(100, window), 1468);
        t.start();
        let mut now = Duration::ZERO;
        for (number, kind) in events {
            now += MS;
            let step = match kind {
                0 => t.receive(&Reply::Ack(number % 256), now),
                1 => t.receive(&Reply::Ack(number), now),
                _ => { now = t.deadline(); t.timeout(now) }
            };
            match step {
                Step::Done(_) => break,
                Step::Send(blocks) => prop_assert!(blocks.end() - blocks.start() < 64),
                Step::Wait => {}
            }
        }
    }
}
