//! What every request passes, and the headers of every answer.

use std::sync::Arc;

use axum::extract::{Request, State as Of};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::refusal::Refusal;
use super::state::State;

/// Scripts, styles and images of this server alone, and images that are part of an event. No other page may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Lets a request through that may ask, and gives its answer the headers that all have.
pub(super) async fn guard(of: Of<Arc<State>>, request: Request, next: Next) -> Response {
    let mut answer = match pass(&of.0, &request) {
        Ok(None) => next.run(request).await,
        Ok(Some(answer)) => answer,
        Err(refusal) => {
            // Who has no token keeps no connection either.
            let close = [(CONNECTION, HeaderValue::from_static("close"))];
            (close, refusal).into_response()
        }
    };
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        // A route may have a policy of its own.
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// `None` if the request may go on; the answer to one that shows the token in its address.
fn pass(state: &State, request: &Request) -> Result<Option<Response>, Refusal> {
    let (headers, access) = (request.headers(), &state.access);
    access.check_host(headers)?;
    if let Some(token) = token_in(request) {
        return match access.is_token(token) {
            true => Ok(Some(welcome(&access.cookie())?)),
            false => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this is not the token of this `ddpm serve`: each start has a new one, in the address that it prints",
            )),
        };
    }
    access.check_known(headers)?;
    // A link on another page may lead to the front page, and to nothing else.
    if request.uri().path() != "/" || request.method() != axum::http::Method::GET {
        access.check_origin(request.method(), headers)?;
    }
    Ok(None)
}

/// The token in the address of the front page, if there is one.
fn token_in(request: &Request) -> Option<&str> {
    let uri = request.uri();
    if uri.path() != "/" || request.method() != axum::http::Method::GET {
        return None;
    }
    let mut pairs = uri.query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix("token="))
}

/// To the page itself, so that the token stays in no address bar.
fn welcome(cookie: &str) -> Result<Response, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, HeaderValue::from_static("/"));
    let cookie = HeaderValue::from_str(cookie).map_err(|_| Refusal::bad("no cookie"))?;
    headers.insert(SET_COOKIE, cookie);
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}
