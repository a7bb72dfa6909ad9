use std::{fs::File, io::Read};

/// 32 random bits: from the kernel, which may not block this early; else from the clock. Nothing hangs
/// on it alone: it spreads machines in time, names DHCP exchanges, and tells two requests of one boot's token apart.
pub fn bits() -> u32 {
    let mut bytes = [0; 4];
    match File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.subsec_nanos() ^ std::process::id()),
    }
}

/// 0 to `bound` - 1.
pub fn below(bound: u64) -> u64 {
    u64::from(bits()) % bound.max(1)
}
