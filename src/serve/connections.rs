//! Connections: how many, how slow, and how large their headers may be.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::impatient::Impatient;

/// Threads that decode images and read runs, beside the one that answers.
pub(super) const BLOCKING_THREADS: usize = 4;
/// Connections at a time; more wait. Each page that is open keeps one.
const MOST: usize = 256;
/// Time for the headers of a request, and between two on a connection.
const HEADER_TIME: Duration = Duration::from_secs(20);
/// Time in which a client must take some of an answer: who reads none keeps no place.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// Most bytes of the headers of a request, and most of them.
const HEADER_BYTES: usize = 32 << 10;
const HEADERS: usize = 64;
/// Pause after the system had no connection to give, for example as there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers all that comes, for ever.
///
/// # Errors
/// None in practice.
pub(super) async fn accept(listener: TcpListener, router: Router) -> Result<()> {
    let places = Arc::new(Semaphore::new(MOST));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS);
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let stream = Impatient::new(stream, WRITE_TIME);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // What a client does wrong is told to the client.
            let _ = connection.await;
            drop(place);
        });
    }
}
