//! Why a request is not answered.

use anyhow::Error;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A status, and words for the person at the page.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) said: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, said: impl Into<String>) -> Refusal {
        let said = said.into();
        Refusal { status, said }
    }

    /// Something that is not there, or not any more.
    pub(super) fn missing(what: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    /// A request that cannot be carried out as it is.
    pub(super) fn bad(said: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, said)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::bad(format!("{error:#}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.said }).to_string();
        (self.status, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}
