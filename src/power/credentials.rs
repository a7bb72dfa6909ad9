use super::PowerError;
use crate::model::Secret;
use std::fmt;
use zeroize::Zeroizing;

/// Who asks a BMC: a user, and a password that nothing shows.
pub struct Credentials {
    /// Name of the user.
    pub user: String,
    password: Zeroizing<String>,
}

impl Credentials {
    /// Reads `user:password`, a line end behind it left out; `name` is the secret's.
    pub fn of(name: &str, secret: &Secret) -> Result<Credentials, PowerError> {
        let bad = || PowerError::Credentials(name.to_owned());
        let text = std::str::from_utf8(secret.expose()).map_err(|_| bad())?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let (user, password) = text.split_once(':').ok_or_else(bad)?;
        let fine = |s: &str| !s.is_empty() && s.len() <= 256 && !s.contains(char::is_control);
        if !fine(user) || !fine(password) || user.starts_with('-') {
            return Err(bad());
        }
        Ok(Credentials { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
    }

    /// The password, for the BMC alone.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Words of a BMC without the password, which it might repeat.
    pub(super) fn hide(&self, words: &str) -> String {
        words.replace(self.password.as_str(), "***")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}
