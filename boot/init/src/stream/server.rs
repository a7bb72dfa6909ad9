//! Serves the root to the kernel: answers reads with blocks that are here and proven, fetches what is not, and
//! once the image runs, the rest.

use super::{
    CAN_NOT, DATA, FAILED, IS_READY, Job, inherited, keeper,
    nbd::{self, Cookie, Request},
    netlink::{self, Command},
    pieces::{Outcome, PIECE, Pieces},
};
use crate::{
    blocks,
    console::{self, say},
    failure::{Doing, Failure, Result, failed},
    fetch::{self, Download, Lost, Problem, Wrong},
    random, root,
    verity::Tree,
};
use rustix::fs::SeekFrom;
use std::{
    fs::{self, File},
    io::{Read, Write},
    ops::Range,
    os::{
        fd::AsFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    process::ExitCode,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How the keeper calls it.
pub const ARGUMENT: &str = "serve-root";
/// How it ends where it could not begin, or process 1 wants no device: not to be started again.
pub const NOT_WANTED: u8 = 3;

/// Requests at a time for what reads wait for.
const AT_ONCE: usize = 4;
/// Bytes of a thread's stack; locked in memory as far as it is used.
const STACK: usize = 256 << 10;
/// Longest that a piece of the rest waits for reads that want others: the server ends who takes next to nothing.
const WAY: Duration = Duration::from_millis(100);
/// After so long, what the server had no right block of is asked for again: somebody may have put it right.
const FORGIVES: Duration = Duration::from_secs(300);

/// A read that the kernel waits for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    cookie: Cookie,
    from: u64,
    len: u32,
}

impl Waiting {
    fn pieces(&self) -> Range<usize> {
        Pieces::of(&(self.from..self.from + u64::from(self.len)))
    }
}

#[derive(Debug)]
struct State {
    pieces: Pieces,
    /// At most as many as the device's queue is long.
    waiting: Vec<Waiting>,
    /// Bytes that came because they were read.
    read: u64,
}

#[derive(Debug)]
struct Server {
    job: Job,
    path: String,
    tree: Tree,
    data: File,
    state: Mutex<State>,
    /// Something came, or is wanted.
    news: Condvar,
    /// The kernel's end of the line.
    out: Mutex<UnixStream>,
    /// To process 1, until it runs the image.
    control: UnixStream,
    /// The image runs: from here on there is nothing better than to wait for the server.
    runs: AtomicBool,
    /// The root no longer hangs on us.
    done: AtomicBool,
    reported: AtomicBool,
}

/// Serves until the root is whole in memory; `job` is the number of the file that says what to serve. `again`: another
/// process of this kind died at it.
pub fn run(job: &str, again: bool) -> ExitCode {
    // One thread of many would not come back: better all of them anew.
    std::panic::set_hook(Box::new(|panic| {
        say(format!("what serves the root is at fault: {panic}"));
        std::process::exit(101)
    }));
    let control = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => UnixStream::from(control),
        Err(_) => return ExitCode::from(NOT_WANTED),
    };
    let begun = Server::begin(job, again, &control);
    let (server, kernel) = match begun {
        Ok(begun) => begun,
        Err(failure) if again => {
            say(failure.to_string());
            return ExitCode::FAILURE;
        }
        Err(failure) => {
            let _ = (&control).write_all(format!("{CAN_NOT}{failure}\n").as_bytes());
            // No device stays that nobody serves.
            let _ = netlink::detach();
            return ExitCode::from(NOT_WANTED);
        }
    };
    match server.serve(kernel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(failure.to_string());
            ExitCode::FAILURE
        }
    }
}

impl Server {
    /// Gives the kernel its socket; the other end of it.
    fn begin(job: &str, again: bool, control: &UnixStream) -> Result<(Arc<Server>, UnixStream)> {
        keeper::stay_in_memory()?;
        let job = Job::read(job)?;
        let tree = fs::read(inherited(job.tree)).doing("read the verity tree")?;
        let data = File::options().read(true).write(true).open(inherited(job.data)).doing("open the root")?;
        let (kernel, ours) = UnixStream::pair().doing("make a socket")?;
        let attach = |command| netlink::attach(command, job.rootfs.bytes(), kernel.as_fd());
        match again {
            // The other one may have died before it had a device.
            true => attach(Command::Reconnect).or_else(|_| attach(Command::Connect))?,
            false => attach(Command::Connect)?,
        }
        let copy = |socket: &UnixStream| socket.try_clone().doing("keep a socket");
        let server = Arc::new(Server::new(job, tree, data, copy(&ours)?, copy(control)?)?);
        server.find_what_is_here();
        for nth in 0..AT_ONCE {
            let server = Arc::clone(&server);
            spawn(&format!("read-{nth}"), move || server.fetch_for_reads())?;
        }
        let last = Arc::clone(&server);
        spawn("rest", move || last.become_needless())?;
        let _ = (&server.control).write_all(format!("{IS_READY}\n").as_bytes());
        Ok((server, ours))
    }

    fn new(job: Job, tree: Vec<u8>, data: File, out: UnixStream, control: UnixStream) -> Result<Server> {
        Ok(Server {
            path: format!("/blobs/{}?boot={}", job.rootfs.blob.digest, job.reporter.attempt),
            tree: job.rootfs.tree(tree)?,
            data,
            state: Mutex::new(State {
                pieces: Pieces::new(job.rootfs.bytes()),
                waiting: Vec::new(),
                read: 0,
            }),
            news: Condvar::new(),
            out: Mutex::new(out),
            control,
            runs: AtomicBool::new(false),
            done: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            job,
        })
    }

    /// What a process before us has left: it may have died in the middle of a piece.
    fn find_what_is_here(&self) {
        let (bytes, mut at) = (self.job.rootfs.bytes(), 0);
        let mut piece = vec![0; fetch::STEP];
        while let Ok(data) = rustix::fs::seek(&self.data, SeekFrom::Data(at)) {
            let from = data / PIECE * PIECE;
            let len = usize::try_from(PIECE.min(bytes.saturating_sub(from))).unwrap_or_default();
            let piece = piece.get_mut(..len).unwrap_or_default();
            if self.data.read_exact_at(piece, from).is_ok() && self.tree.first_wrong(from, piece).is_none() {
                let pieces = Pieces::of(&(from..from + 1));
                pieces.for_each(|n| {
                    self.state().pieces.came(n);
                });
            }
            at = from + PIECE;
        }
    }

    /// Answers the kernel.
    fn serve(&self, mut kernel: UnixStream) -> Result<()> {
        let mut header = [0; nbd::HEADER];
        loop {
            let asked = match kernel.read_exact(&mut header) {
                Ok(()) => nbd::parse(&header, self.job.rootfs.bytes()),
                // It may close without a word.
                Err(_) => Some(Request::Disconnect),
            };
            match asked {
                None => return failed("what the kernel asks of the root's device makes no sense"),
                Some(Request::Disconnect) if self.done.load(Ordering::Acquire) => return Ok(()),
                Some(Request::Disconnect) => return failed("the kernel gave up the root's device"),
                Some(Request::Other(cookie)) => self.send(&nbd::reply(cookie, nbd::WRONG)),
                Some(Request::Read { cookie, from, len }) => {
                    let read = Waiting { cookie, from, len };
                    let mut state = self.state();
                    let outcome = state.pieces.want(read.pieces());
                    if outcome == Outcome::Later {
                        state.waiting.push(read);
                    }
                    drop(state);
                    match outcome {
                        Outcome::Later => self.news.notify_all(),
                        now => self.answer(&read, now),
                    }
                }
            }
        }
    }

    fn answer(&self, read: &Waiting, outcome: Outcome) {
        let mut reply = nbd::reply(read.cookie, 0).to_vec();
        let head = reply.len();
        reply.resize(head + read.len as usize, 0);
        let bytes = reply.get_mut(head..).unwrap_or_default();
        let here = outcome == Outcome::Now && self.data.read_exact_at(bytes, read.from).is_ok();
        match here {
            true => self.send(&reply),
            false => self.send(&nbd::reply(read.cookie, nbd::NOT_TO_BE_HAD)),
        }
    }

    /// Where the kernel takes nothing any more, the end of its requests says so.
    fn send(&self, bytes: &[u8]) {
        let _ = self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
    }

    /// Answers those whose turn has come.
    fn answer_waiting(&self) {
        let mut ready = Vec::new();
        {
            let mut state = self.state();
            let State { pieces, waiting, .. } = &mut *state;
            waiting.retain(|read| match pieces.outcome(read.pieces()) {
                Outcome::Later => true,
                outcome => {
                    ready.push((*read, outcome));
                    false
                }
            });
        }
        ready.iter().for_each(|(read, outcome)| self.answer(read, *outcome));
        self.news.notify_all();
    }

    /// A thread of those that fetch what reads wait for.
    fn fetch_for_reads(&self) {
        loop {
            let mut state = self.state();
            let run = loop {
                match state.pieces.next_wanted() {
                    Some(run) => break run,
                    None => state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            if let Err(lost) = self.fetch(run.clone(), false) {
                self.lost(run, lost);
            }
        }
    }

    /// The thread that fetches the rest, from when on process 1 is the image's, and has memory take our place.
    fn become_needless(&self) {
        // Its end of the line closes when it becomes the image's init.
        if (&self.control).read(&mut [0]).is_ok_and(|n| n > 0) {
            let _ = netlink::detach();
            std::process::exit(NOT_WANTED.into());
        }
        console::belongs_to_the_image();
        {
            let mut state = self.state();
            self.runs.store(true, Ordering::Release);
            // What a server that was gone did not have: from now on it is waited for.
            state.pieces.forgive();
        }
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
        let began = Instant::now();
        self.fetch_the_rest();
        self.hand_over(began)
    }

    fn fetch_the_rest(&self) {
        let mut forgave = Instant::now();
        loop {
            let state = self.state();
            if state.pieces.whole() {
                return;
            }
            match state.pieces.next_rest() {
                Some(run) => {
                    drop(state);
                    if let Err(lost) = self.fetch(run.clone(), true) {
                        self.lost(run, lost);
                    }
                }
                None => {
                    let waited = self.news.wait_timeout(state, FORGIVES);
                    let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                    if forgave.elapsed() >= FORGIVES {
                        forgave = Instant::now();
                        state.pieces.forgive();
                    }
                }
            }
        }
    }

    /// Puts the memory itself under dm-verity, and ends the device, and with it this process.
    fn hand_over(&self, began: Instant) {
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let (size, read) = (mb(self.job.rootfs.blob.size), mb(self.state().read));
        let here = format!(
            "all of the root is in memory, every block proven: {size}, of which {read} as they were read"
        );
        let seconds = began.elapsed().as_secs_f32();
        for nth in 0.. {
            let Err(failure) = self.swap() else { break };
            if nth == 0 {
                say(format!("{here}. It stays with the process that serves it until this works: {failure}"));
            }
            // Pages may have been in use at this moment, as by whatever looks at a new device.
            thread::sleep(fetch::backoff(nth, random::below(1000)));
        }
        say(format!("{here}, {seconds:.1} s after the image's start. It needs the server no longer"));
        self.done.store(true, Ordering::Release);
        if let Err(failure) = netlink::detach() {
            say(failure.to_string());
            std::process::exit(0);
        }
    }

    fn swap(&self) -> Result<()> {
        root::seal(&self.data)?;
        let whole = blocks::number(&blocks::attach(&self.data, "pristine-rootfs")?)?;
        blocks::swap(DATA, &Job::table(&self.job.rootfs, &format!("{whole} 0")))
    }

    /// Fetches these pieces; what comes is answered at once.
    fn fetch(&self, run: Range<usize>, rest: bool) -> std::result::Result<(), Lost> {
        let download = Download {
            server: self.job.reporter.server,
            path: &self.path,
            size: self.job.rootfs.blob.size,
            part: Some(self.end_of(run.start)..self.end_of(run.end)),
            what: "the rootfs",
            // What a read waits for goes before; it is little.
            in_turn: rest,
            endless: &|| self.runs.load(Ordering::Acquire),
        };
        download.run(&mut |at, bytes| self.take(at, bytes, rest))
    }

    /// Where so many pieces end.
    fn end_of(&self, pieces: usize) -> u64 {
        (pieces as u64).saturating_mul(PIECE).min(self.job.rootfs.blob.size)
    }

    /// Proves and keeps what came. Downloads begin with a piece: one is here when its end is.
    fn take(&self, at: u64, bytes: &[u8], rest: bool) -> std::result::Result<(), Problem> {
        let pieces = Pieces::of(&(at..at + bytes.len() as u64));
        let mut state = self.state();
        if rest {
            let waited = self.news.wait_timeout_while(state, WAY, |state| !state.waiting.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.pieces.outcome(pieces.clone()) == Outcome::Now {
            return Ok(());
        }
        drop(state);
        let wrong = self.tree.first_wrong(at, bytes);
        let good = bytes.get(..wrong.unwrap_or(bytes.len())).unwrap_or_default();
        self.data.write_all_at(good, at).doing("keep the rootfs in memory").map_err(Problem::Fatal)?;
        let end = at + good.len() as u64;
        {
            let mut state = self.state();
            for n in pieces {
                if self.end_of(n + 1) <= end && state.pieces.came(n) && !rest {
                    state.read += self.end_of(n + 1) - self.end_of(n);
                }
            }
        }
        self.answer_waiting();
        match wrong {
            Some(offset) => Err(Problem::Wrong(Wrong { at: at + offset as u64 })),
            None => Ok(()),
        }
    }

    /// These pieces did not come. Reads of what is damaged fail, and before the image runs, of what a server that is
    /// gone has: the boot then ends with this reason.
    fn lost(&self, run: Range<usize>, lost: Lost) {
        let damaged = matches!(lost, Lost::Damaged { .. });
        let refused = match lost {
            Lost::Damaged { at, .. } => Pieces::of(&(at..at + 1)),
            Lost::Other(_) => run.clone(),
        };
        let failure = lost.failure();
        self.tell(&failure);
        let runs = {
            let mut state = self.state();
            let runs = self.runs.load(Ordering::Acquire);
            if damaged || !runs {
                state.pieces.refuse(refused);
            }
            state.pieces.again(run);
            runs
        };
        self.answer_waiting();
        if damaged && !self.reported.swap(true, Ordering::AcqRel) {
            self.job.reporter.failed(&failure.0);
        } else if !damaged && runs {
            thread::sleep(fetch::backoff(6, random::below(1000)));
        }
    }

    fn tell(&self, failure: &Failure) {
        say(failure.to_string());
        let _ = (&self.control).write_all(format!("{FAILED}{failure}\n").as_bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    thread.spawn(work).map(drop).doing("start a thread")
}

#[cfg(test)]
mod tests;
