//! The API's bearer token: 32 random bytes in hex, in a file that only the service's user can read.

use crate::{model::Digest, store::durable};
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Bytes of randomness.
const RANDOM: usize = 32;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read or made.
    #[error("can't {what} the API token {}: {source}\n  help: {}", path.display(), what_to_do(source))]
    Io {
        /// `read` or `make`.
        what: &'static str,
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{} can be read by others (mode {mode:04o})\n  help: chmod 600 {}, and delete it first if somebody may have read it: the next start makes a new one", path.display(), path.display())]
    Open {
        /// File.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else.
    #[error("{} holds no token (64 hex digits)\n  help: delete it: the next start makes a new one", .0.display())]
    NotAToken(PathBuf),
    /// No randomness.
    #[error("no randomness for an API token: {0}")]
    Random(String),
}

fn what_to_do(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that disk",
        _ => "give the service's user that folder, or set [api] token_file",
    }
}

/// The token, kept as its digest: enough to compare, useless to whoever reads our memory.
#[derive(Clone, Debug)]
pub struct Token(Digest);

impl Token {
    /// The token in that file, which is made where it isn't there yet.
    pub fn load_or_make(path: &Path) -> Result<Token, TokenError> {
        match read(path)? {
            Some(text) => Ok(Token::of(&text)),
            None => make(path),
        }
    }

    /// A token from its text.
    pub fn of(text: &str) -> Token {
        Token(Digest::of(text.trim().as_bytes()))
    }

    /// Compares in a time that tells nothing about where they differ: both sides are digests, and
    /// every byte is looked at.
    pub fn matches(&self, offered: &str) -> bool {
        let offered = Digest::of(offered.as_bytes());
        let difference = self.0.0.iter().zip(offered.0).fold(0u8, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

fn read(path: &Path) -> Result<Option<String>, TokenError> {
    let io = |source| TokenError::Io { what: "read", path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(TokenError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text).map_err(io)?;
    let token = text.trim();
    if token.len() != 2 * RANDOM || !token.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(TokenError::NotAToken(path.to_owned()));
    }
    Ok(Some(token.to_owned()))
}

/// Writes a new one; of two starts at once one does, and both have the same.
fn make(path: &Path) -> Result<Token, TokenError> {
    let io = |source| TokenError::Io { what: "make", path: path.to_owned(), source };
    let mut bytes = [0u8; RANDOM];
    getrandom::fill(&mut bytes).map_err(|e| TokenError::Random(e.to_string()))?;
    let text = Digest(bytes).to_string();
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        durable::create_dir_all(dir).map_err(io)?;
    }
    if durable::write_new(path, format!("{text}\n").as_bytes(), 0o600).map_err(io)? {
        return Ok(Token::of(&text));
    }
    read(path)?.map(|t| Token::of(&t)).ok_or_else(|| TokenError::NotAToken(path.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    /// A folder of its own, removed at the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            let mut random = [0u8; 8];
            getrandom::fill(&mut random).unwrap();
            let dir = std::env::temp_dir().join(format!("pristine-token-{}", u64::from_ne_bytes(random)));
            fs::create_dir(&dir).unwrap();
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn is_made_once_and_only_its_owner_can_read_it() {
        let dir = Dir::new();
        let path = dir.0.join("state/api-token");
        let made = Token::load_or_make(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(text.len(), 65);
        assert!(made.matches(text.trim()));
        assert!(Token::load_or_make(&path).unwrap().matches(text.trim()));
        assert!(!made.matches("") && !made.matches(&text) && !made.matches(&"0".repeat(64)));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no leftovers");
    }

    #[test]
    fn a_file_that_others_read_or_that_holds_no_token_is_refused() {
        let dir = Dir::new();
        let path = dir.0.join("api-token");
        Token::load_or_make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let text = Token::load_or_make(&path).unwrap_err().to_string();
        assert!(text.contains("can be read by others (mode 0640)"), "{text}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "").unwrap();
        let text = Token::load_or_make(&path).unwrap_err().to_string();
        assert!(text.contains("holds no token"), "{text}");
    }
}
