//! How a command fails.

use std::{error::Error, io::Write, process::ExitCode};

/// What a command gives back: everything that it has to say is printed by then.
pub type Outcome = Result<(), Failure>;

/// Why a command was not done. Any error turns into one by `?`; its text must read as help.
#[derive(Debug)]
pub enum Failure {
    /// It failed: exit 1, with the chain of reasons on standard error.
    Error(Box<dyn Error + Send + Sync>),
    /// Arguments that make no sense together: exit 2.
    Usage(String),
    /// It failed, and what there is to say was said: exit 1.
    Said,
    /// Nobody reads our output any more (`| head`): exit 0, quietly.
    PipeClosed,
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Error(Box::new(error))
    }
}

impl Failure {
    /// A failure in words.
    pub fn text(words: impl Into<String>) -> Failure {
        Failure::Error(words.into().into())
    }

    /// Prints it; the exit code that goes with it.
    pub(super) fn report(self) -> ExitCode {
        let mut err = std::io::stderr().lock();
        let (text, code) = match &self {
            Failure::Error(error) => (chain(error.as_ref()), 1),
            Failure::Usage(words) => (words.clone(), 2),
            Failure::Said => return ExitCode::FAILURE,
            Failure::PipeClosed => return ExitCode::SUCCESS,
        };
        // Some of the words are not ours: they must not drive the terminal.
        let text: String = text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
        let _ = writeln!(err, "pristine: {text}");
        ExitCode::from(code)
    }
}

/// An error and what caused it, a line each; a cause that the text above already tells is left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let words = e.to_string();
        if !text.contains(&words) {
            text.push_str("\n  because: ");
            text.push_str(&words);
        }
        cause = e.source();
    }
    text
}
