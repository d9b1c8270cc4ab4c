//! Addresses, and what is behind them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path, State as Of};
use axum::http::StatusCode;
use axum::http::header::{
    CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream::{Stream, select, unfold};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch::Receiver;

use super::answer::guard;
use super::assets::{self, Asset};
use super::jobs::Made;
use super::refusal::Refusal;
use super::settings;
use super::state::State;
use super::uploads::{self, MAX_BYTES};
use super::wish::Wish;
use crate::report::{encode_png, settings_of_png};

/// Longest request for a job, bytes.
const MAX_WISH_BYTES: usize = 16 << 10;
/// Time for the body of a request.
const BODY_TIME: Duration = Duration::from_secs(30);
/// A sign of life, so that what stands between a page and this server keeps the connection.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// What the report of a run may do.
const REPORT_POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                             base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts";

type Shared = Of<Arc<State>>;
type Answer = Result<Response, Refusal>;

/// The names and numbers in an address; one that is no number is an address that there is not.
struct At<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<At<T>, Refusal> {
        let found = Path::from_request_parts(parts, state).await;
        let Path(found) = found.map_err(|_| Refusal::missing("page"))?;
        Ok(At(found))
    }
}

/// All addresses.
pub(super) fn router(state: Arc<State>) -> Router {
    let checked = axum::middleware::from_fn_with_state(Arc::clone(&state), guard);
    Router::new()
        .route("/", get(async || asset(&assets::PAGE)))
        .route("/assets/{name}", get(file_of_page))
        .route("/api/networks", get(networks))
        .route("/api/runs", get(runs))
        .route("/runs/{id}/report", get(report))
        .route("/api/events", get(events))
        .route("/api/jobs", get(jobs).post(new_job))
        .route("/api/jobs/{id}/cancel", post(cancel))
        .route("/api/jobs/{id}/figure.png", get(figure))
        .route("/api/jobs/{id}/images/{number}", get(image))
        .route("/api/uploads", post(upload))
        .route("/api/uploads/{id}/for/{network}", get(fitted))
        .fallback(async || Refusal::missing("page"))
        .method_not_allowed_fallback(async || {
            let said = "this address is not for requests of this method";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, said)
        })
        .layer(checked)
        .with_state(state)
}

fn asset(asset: &'static Asset) -> Response {
    ([(CONTENT_TYPE, asset.kind)], asset.bytes).into_response()
}

fn json(text: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, "application/json")], text.into()).into_response()
}

async fn file_of_page(At(name): At<String>) -> Answer {
    assets::find(&name)
        .map(asset)
        .ok_or_else(|| Refusal::missing("file"))
}

async fn networks(state: Shared) -> Answer {
    let networks = blocking(move || {
        state.catalogue.renew();
        Ok(state.catalogue.to_json())
    });
    let networks = networks.await?;
    let limit = json!({ "images": super::wish::MOST_IMAGES, "upload_bytes": MAX_BYTES });
    Ok(json(
        json!({ "networks": networks, "most": limit }).to_string(),
    ))
}

async fn runs(state: Shared) -> Answer {
    blocking(move || {
        state.runs.look();
        Ok(json(state.runs.list().to_string()))
    })
    .await
}

/// The report of a run, for a frame of the page. It is a page of its own, whose script and style are in it: it may run
/// them, in a sandbox without cookies or a way to this server, and load nothing.
async fn report(state: Shared, At(id): At<usize>) -> Answer {
    let html = blocking(move || match state.runs.has(id) {
        true => state.runs.report(id).map(Some),
        false => Ok(None),
    });
    let html = html.await?.ok_or_else(|| Refusal::missing("run"))?;
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, REPORT_POLICY),
        (X_FRAME_OPTIONS, "SAMEORIGIN"),
    ];
    Ok((headers, html).into_response())
}

async fn jobs(state: Shared) -> Response {
    json(state.jobs.list().to_string())
}

/// All that happens: `runs` and `jobs` when their lists change, `progress` of the job that runs. Each begins with what is
/// so now.
async fn events(state: Shared) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let jobs = told("jobs", state.jobs.listen());
    let progress = told("progress", state.jobs.listen_to_progress());
    let runs = told("runs", state.runs.listen());
    let all = select(select(jobs, progress), runs);
    Sse::new(all).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE))
}

/// What a channel holds now, and then each newer one: a slow page gets fewer.
fn told(
    name: &'static str,
    mut channel: Receiver<Arc<str>>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    channel.mark_changed();
    let next = move |mut channel: Receiver<Arc<str>>| async move {
        channel.changed().await.ok()?;
        let text = Arc::clone(&channel.borrow_and_update());
        Some((Ok(Event::default().event(name).data(&*text)), channel))
    };
    Box::pin(unfold(channel, next))
}

async fn new_job(state: Shared, body: Body) -> Answer {
    let body = read(body, MAX_WISH_BYTES).await?;
    let wish = Wish::read(&body)?;
    let catalogue = Arc::clone(&state.catalogue);
    let wish = blocking(move || {
        wish.check(&*catalogue.config(wish.network)?)?;
        catalogue.key(wish.network, wish.step, wish.raw)?;
        Ok(wish)
    });
    let wish = wish.await?;
    // A checkpoint may go while it waits; that is its error then. Its images stay with it.
    let files = wish.uploads().into_iter().map(|id| state.uploads.get(id));
    let files = files.collect::<anyhow::Result<_>>()?;
    let id = state.jobs.add(wish, files)?;
    Ok((StatusCode::CREATED, json(json!({ "id": id }).to_string())).into_response())
}

async fn cancel(state: Shared, At(id): At<u64>) -> Answer {
    state.jobs.cancel(id)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn figure(state: Shared, At(id): At<u64>) -> Answer {
    let made = state.jobs.made(id)?;
    Ok(png(format!("ddpm-{id}.png"), made.figure.clone()))
}

async fn image(state: Shared, At((id, number)): At<(u64, usize)>) -> Answer {
    let made: Arc<Made> = state.jobs.made(id)?;
    let image = made
        .images
        .get(number)
        .ok_or_else(|| Refusal::missing("image"))?;
    Ok(png(format!("ddpm-{id}-{number}.png"), image.clone()))
}

/// An image, with a name for whoever saves it.
fn png(name: String, bytes: Vec<u8>) -> Response {
    let headers = [
        (CONTENT_TYPE, "image/png".to_owned()),
        (CONTENT_DISPOSITION, format!("inline; filename=\"{name}\"")),
    ];
    (headers, bytes).into_response()
}

async fn upload(state: Shared, body: Body) -> Answer {
    let place = state.arriving.acquire().await;
    let bytes = read(body, MAX_BYTES).await?.to_vec();
    let of = Arc::clone(&state);
    let answer = blocking(move || {
        let settings = settings_of_png(&bytes).ok().flatten();
        let settings = settings.and_then(|text| settings::for_form(&text));
        let taken = of.uploads.take(bytes)?;
        let answer = json!({
            "id": taken.id,
            "width": taken.width,
            "height": taken.height,
            "settings": settings,
        });
        Ok((StatusCode::CREATED, json(answer.to_string())).into_response())
    })
    .await;
    drop(place);
    answer
}

/// An upload as a network sees it.
async fn fitted(state: Shared, At((id, network)): At<(u64, u32)>) -> Answer {
    let bytes = state.uploads.get(id);
    let bytes = bytes.map_err(|error| Refusal::new(StatusCode::NOT_FOUND, error.to_string()))?;
    blocking(move || {
        let pixels = uploads::pixels(&bytes, &*state.catalogue.config(network)?)?;
        let bytes = encode_png(pixels.view(), None)?;
        Ok(png(format!("ddpm-upload-{id}.png"), bytes))
    })
    .await
}

/// The body of a request, within limits.
async fn read(body: Body, most: usize) -> Result<axum::body::Bytes, Refusal> {
    let late = |_| {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request took too long to arrive",
        )
    };
    let read = tokio::time::timeout(BODY_TIME, to_bytes(body, most));
    read.await.map_err(late)?.map_err(|_| {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request did not arrive whole, or is longer than {most} bytes"),
        )
    })
}

/// Work that would hold up other requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.context("a bug in this program; its message is where `ddpm serve` was started")??)
}
