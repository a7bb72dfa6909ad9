use std::time::Duration;

/// Longest piece of a BMC's own words that is repeated, in characters.
const MAX_WORDS: usize = 200;

/// Why a BMC did not do what it was asked to. The text goes to operators, logs and the machine's record:
/// it never holds a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PowerError {
    /// The machine is switched by hand, or by its own agent.
    #[error("its power is `{0}`, which this service can't switch: name its BMC with `pristine power set`")]
    NoBmc(String),
    /// The settings can't be right.
    #[error("{0}")]
    Settings(String),
    /// The secret is no `user:password`.
    #[error("secret {0} is no user:password, as in `printf 'root:calvin' | pristine secret set {0}`")]
    Credentials(String),
    /// Nobody there, or it breaks off.
    #[error("{url}: {why}")]
    Connection {
        /// Where.
        url: String,
        /// What the connection said.
        why: String,
    },
    /// It has no pin yet.
    #[error("the certificate of {0} is not pinned: `pristine power pin` shows it")]
    NotPinned(String),
    /// Another certificate than the pinned one.
    #[error(
        "{url} shows another certificate than the pinned one, {got}: is it another BMC, was its certificate renewed, or does somebody sit in between? `pristine power pin` pins it"
    )]
    OtherCertificate {
        /// Where.
        url: String,
        /// SHA-256 of the certificate that it showed.
        got: String,
    },
    /// It said no.
    #[error("{url} said {status} to {what}{}", said(.words))]
    Refused {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// Which request.
        what: String,
        /// Its words, tidied.
        words: String,
    },
    /// It sends whoever asks somewhere else.
    #[error("{url} redirects {what} to {}: name that in the machine's power settings if it is right", quoted(.to))]
    Redirect {
        /// Where.
        url: String,
        /// Which request.
        what: String,
        /// Where it redirects to, tidied.
        to: String,
    },
    /// It makes no sense.
    #[error("{url}: {why}")]
    Nonsense {
        /// Where.
        url: String,
        /// What is odd about it.
        why: String,
    },
    /// It took too long.
    #[error("no answer from the BMC within {} s", .0.as_secs())]
    Late(Duration),
    /// The program that speaks IPMI.
    #[error("{0}")]
    Ipmi(String),
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

fn quoted(to: &str) -> String {
    if to.is_empty() { "nowhere".to_owned() } else { format!("`{to}`") }
}

/// A stranger's words, fit to be repeated: one line, not too long, no control characters.
pub(super) fn tidy(words: &str) -> String {
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
        None => words,
    }
}
