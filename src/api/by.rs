//! In whose name a request changes something.

use super::{Refusal, router::Api};
use crate::{
    model::{
        audit::By,
        wire::{MESSAGE_HEADER, OPERATOR_HEADER},
    },
    provisioner::Provisioner,
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
};

/// The provisioner in the name of the operator who sent the request: every route that changes something
/// takes this one.
pub struct Ordered(pub Provisioner);

impl FromRequestParts<Api> for Ordered {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Ordered, Refusal> {
        let bad = |words: String| {
            Refusal::new(StatusCode::BAD_REQUEST, words)
                .hint("docs/api.md says what may be in Pristine-Operator and Pristine-Message")
        };
        let claim = header(&parts.headers, OPERATOR_HEADER).map_err(bad)?;
        let why = header(&parts.headers, MESSAGE_HEADER).map_err(bad)?;
        let by = By::operator(claim, why).map_err(bad)?;
        api.provisioner().takes_commands()?;
        Ok(Ordered(api.provisioner().by(by)))
    }
}

fn header(headers: &HeaderMap, name: &str) -> Result<Option<String>, String> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes());
    text.map(|t| Some(t.to_owned())).map_err(|_| format!("the header {name} is not text in UTF-8"))
}
