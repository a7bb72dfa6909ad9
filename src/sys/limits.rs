//! What the kernel lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Each transfer and connection has a file descriptor: the soft limit of 1,024 is too low for a rack. Best
/// effort, up to the hard limit.
pub fn raise_file_limit() {
    const WANTED: u64 = 65_536;
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(WANTED, |most| most.min(WANTED));
    if now.current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum });
    }
}
