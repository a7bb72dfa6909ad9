use std::{io, path::PathBuf, time::Duration};

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces need privileges.
    #[error("the lab makes network namespaces, which needs root: run it with sudo")]
    NotRoot,
    /// A tool is missing or can't be started.
    #[error("can't start `{program}`: {source}. `make setup` installs what the lab needs")]
    Start {
        /// Name of the tool.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A tool said no.
    #[error("`{command}` failed ({status}): {said}")]
    Tool {
        /// The whole command.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote, standard error first.
        said: String,
    },
    /// Something took longer than its bound.
    #[error("{what}: not within {} s", .bound.as_secs())]
    Late {
        /// What was awaited.
        what: String,
        /// The bound.
        bound: Duration,
    },
    /// A file or folder could not be used.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Ctrl-C, or a request to end.
    #[error("interrupted: everything is removed")]
    Interrupted,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl LabError {
    /// For `map_err` on an I/O result about `path`.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LabError {
        let path = path.into();
        move |source| LabError::File { path, source }
    }
}
