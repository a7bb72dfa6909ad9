use std::fmt;

/// Why this boot can't go on, in one or two sentences that end up on the console and in the boot
/// attempt: what was being done, what is wrong, what to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// What fallible steps of a boot return.
pub type Result<T> = std::result::Result<T, Failure>;

/// Turns any error into a [`Failure`] that says what was being done.
pub trait Doing<T> {
    /// `what` fits into the sentence "could not …".
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Failure(format!("could not {what}: {e}")))
    }
}

/// The error of [`failed`].
pub fn failed<T>(reason: impl Into<String>) -> Result<T> {
    Err(Failure(reason.into()))
}
