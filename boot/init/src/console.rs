use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Every console that a person may look at, and the kernel log. Opened for each line: consoles come and
/// go while drivers load, and the root moves under us.
static LOCK: Mutex<()> = Mutex::new(());
static OF_THE_IMAGE: AtomicBool = AtomicBool::new(false);

/// From now on this process writes to the consoles that the kernel has alone: what hangs on another serial port is the
/// running image's.
pub fn belongs_to_the_image() {
    OF_THE_IMAGE.store(true, Ordering::Relaxed);
}

/// One line, `pristine: ` in front.
pub fn say(line: impl AsRef<str>) {
    let line = line.as_ref();
    write_all_consoles(&format!("pristine: {line}\r\n"));
    // Debug level: the kernel keeps it in its log without printing it on the consoles again.
    log_to_kernel(line);
}

fn log_to_kernel(line: &str) {
    if let (Ok(mut log), false) = (fs::OpenOptions::new().write(true).open("/dev/kmsg"), cfg!(test)) {
        let _ = log.write_all(format!("<7>pristine: {line}\n").as_bytes());
    }
}

/// A screen that a person reads from across the room: `title` between bars, `lines` below.
pub fn screen(title: &str, lines: &[String]) {
    let bar = "=".repeat(76);
    let mut text = format!("\r\n{bar}\r\n{title}\r\n{bar}\r\n");
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    write_all_consoles(&text);
    std::iter::once(title).chain(lines.iter().map(String::as_str)).for_each(log_to_kernel);
}

fn write_all_consoles(text: &str) {
    if cfg!(test) {
        return; // the consoles of whoever runs the tests
    }
    let _one_at_a_time = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    // The consoles that the kernel itself prints to; and the two that people look at even where no
    // console= names them.
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut names: BTreeSet<&str> = active.split_whitespace().collect();
    if names.is_empty() {
        names.insert("console");
    }
    if !OF_THE_IMAGE.load(Ordering::Relaxed) {
        names.extend(["tty0", "ttyS0"]);
    }
    for name in names {
        // Never wait for a terminal: a serial line without carrier or with flow control held must not
        // hold a boot.
        let console = fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(format!("/dev/{name}"));
        if let Ok(mut console) = console {
            write_patiently(&mut console, text.as_bytes());
        }
    }
}

/// A non-blocking terminal takes what its buffer holds. Slow serial lines get up to a second.
fn write_patiently(console: &mut fs::File, mut bytes: &[u8]) {
    for _ in 0..100 {
        match console.write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        if bytes.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
