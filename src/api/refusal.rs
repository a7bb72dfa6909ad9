//! How the API says no: a status code that programs act on, words that people act on.

use crate::{
    model::wire::ErrorBody,
    power::PowerError,
    provisioner::CommandError,
    store::{StoreError, db::DbError},
};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Status code.
    pub status: StatusCode,
    /// Body.
    pub body: Box<ErrorBody>,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal { status, body: Box::new(ErrorBody { error: error.into(), ..ErrorBody::default() }) }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.body.hint = Some(hint.into());
        self
    }

    /// Adds names that were probably meant.
    pub fn nearest(mut self, names: Vec<String>) -> Refusal {
        self.body.nearest = names;
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Refusal {
        let text = error.to_string();
        match error {
            CommandError::NoMachine { name, nearest } => {
                Refusal::new(StatusCode::NOT_FOUND, format!("no machine `{name}`"))
                    .hint("a machine is named by a MAC or by its hostname; see `pristine machine list`")
                    .nearest(nearest)
            }
            CommandError::NoRule { name, nearest } => {
                Refusal::new(StatusCode::NOT_FOUND, format!("no rule `{name}`"))
                    .hint("see `pristine rule list`")
                    .nearest(nearest)
            }
            CommandError::NoProfile { name, nearest } => {
                Refusal::new(StatusCode::NOT_FOUND, format!("no profile `{name}`"))
                    .hint("see `pristine profile list`")
                    .nearest(nearest)
            }
            CommandError::NoRollout { name, nearest } => {
                Refusal::new(StatusCode::NOT_FOUND, format!("no rollout `{name}`"))
                    .hint("see `pristine rollout list`")
                    .nearest(nearest)
            }
            CommandError::NoSecret { name, nearest } => {
                Refusal::new(StatusCode::NOT_FOUND, format!("no secret `{name}`"))
                    .hint("see `pristine secret list`")
                    .nearest(nearest)
            }
            CommandError::Power { error: PowerError::Settings(_) | PowerError::Credentials(_), .. } => {
                Refusal::new(StatusCode::BAD_REQUEST, text)
            }
            CommandError::Power { error: PowerError::NoBmc(_) | PowerError::NotPinned(_), .. } => {
                Refusal::new(StatusCode::CONFLICT, text)
            }
            CommandError::Power { .. } => Refusal::new(StatusCode::BAD_GATEWAY, text),
            CommandError::Vault(_) => {
                tracing::error!(error = %text, "secrets can't be used");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
            CommandError::NoImage(_) => Refusal::new(StatusCode::NOT_FOUND, text),
            CommandError::Problems(problems) => {
                let mut refusal = Refusal::new(StatusCode::BAD_REQUEST, text);
                refusal.body.problems = problems;
                refusal
            }
            CommandError::Bad(_) => Refusal::new(StatusCode::BAD_REQUEST, text),
            CommandError::NotSigned(_) => Refusal::new(StatusCode::CONFLICT, text)
                .hint("`require_signature` is on in this service's configuration; `pristine key list` shows whom it trusts"),
            CommandError::WrongArch { .. } | CommandError::Taken { .. } | CommandError::Conflict(_) => {
                Refusal::new(StatusCode::CONFLICT, text)
            }
            CommandError::TableFull(_) => Refusal::new(StatusCode::INSUFFICIENT_STORAGE, text),
            CommandError::Store(_) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
                .hint("`pristine image verify` names what is damaged"),
            CommandError::NotSaved(
                DbError::Write { .. } | DbError::Rotten { .. } | DbError::Overloaded { .. },
            ) => {
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, text)
                    .hint("`pristine status` and `pristine doctor` tell how the disk is")
            }
            CommandError::NotSaved(_) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
                .hint("the state database can't be written now: try again"),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        tracing::error!(%error, "the image store can't be read");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            .hint("`pristine image verify` names what is damaged")
    }
}
