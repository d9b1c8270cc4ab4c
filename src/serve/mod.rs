//! A local page to watch runs and to try networks (`ddpm serve`, docs/serve.md).
//!
//! Requests come in at `connections`, which limits them, pass `access` and get their headers in `answer`, and end in
//! `routes`. What is asked for is a `wish`, which waits among the `jobs` until the `worker` has the network draw it;
//! networks are those of the `catalogue`, images from the page are `uploads`, and `watch` looks at the runs for all pages
//! at once. The page itself is in `assets`: written by hand, embedded, nothing loaded from elsewhere.
//!
//! Every request is untrusted. None names a path: networks, runs, images and jobs have numbers.
//!
//! axum and hyper speak HTTP. axum's own loop sets no time limit for slow headers and no number of connections, so
//! `connections` calls hyper itself.

mod access;
mod answer;
mod assets;
mod catalogue;
mod connections;
mod draw;
mod impatient;
mod jobs;
mod memory;
mod preview;
mod refusal;
mod routes;
mod settings;
mod state;
mod uploads;
mod watch;
mod wish;
mod worker;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Semaphore;

pub use wish::{Class, Shows, Task, Wish};

use crate::device::Chosen;
use access::Access;
use catalogue::Catalogue;
use jobs::Jobs;
use memory::Limit;
use state::State;
use uploads::Uploads;
use watch::Runs;

/// How to serve.
#[derive(Debug)]
pub struct Options {
    /// Runs, checkpoints and other files of networks.
    pub networks: Vec<PathBuf>,
    /// Folders of runs: their runs are served, also those that begin later.
    pub folders: Vec<PathBuf>,
    /// The address to listen at; loopback is for this machine alone.
    pub address: IpAddr,
    /// The port; 0 for any.
    pub port: u16,
    /// Where networks compute.
    pub device: Chosen,
    /// Most bytes of weights and images on the device; without, half of what is free.
    pub memory_bytes: Option<u64>,
    /// Longest time of a job.
    pub job_limit: Duration,
    /// How much lower than usual the priority of what computes is on a CPU, 0 to 19.
    pub niceness: i32,
}

/// A server that is ready.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<State>,
    device: Chosen,
    niceness: i32,
}

impl Server {
    /// Takes the port, and looks at the networks.
    ///
    /// # Errors
    /// A port that others use, or that needs more rights.
    pub fn new(options: Options) -> Result<Server> {
        let asked = SocketAddr::new(options.address, options.port);
        let listener = TcpListener::bind(asked).with_context(|| {
            format!("cannot listen at {asked}; is another `ddpm serve` running? Choose another --port, or 0 for any")
        })?;
        let address = listener.local_addr()?;
        let catalogue = Arc::new(Catalogue::new(&options.networks, &options.folders));
        let state = State {
            access: Access::new(address.ip(), address.port())?,
            runs: Arc::new(Runs::new(Arc::clone(&catalogue))),
            catalogue,
            jobs: Jobs::new(),
            uploads: Uploads::default(),
            arriving: Semaphore::new(uploads::AT_A_TIME),
            limit: Limit::new(options.device.device, options.memory_bytes),
            job_limit: options.job_limit,
        };
        Ok(Server {
            listener,
            address,
            state: Arc::new(state),
            device: options.device,
            niceness: options.niceness,
        })
    }

    /// The address of the page, with the token that opens it.
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            // Not one that a browser can open.
            ip if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1".to_owned(),
            ip if ip.is_unspecified() => "[::1]".to_owned(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let (port, token) = (self.address.port(), self.state.access.token());
        format!("http://{ip}:{port}/?token={token}")
    }

    /// What there is to say at start, a line each: who can reach the page, what it may take, what cannot be used.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.address.ip().is_loopback() {
            let everywhere = match self.address.ip().is_unspecified() {
                true => "all networks of this machine".to_owned(),
                false => self.address.ip().to_string(),
            };
            notes.push(format!(
                "warning: open to {everywhere}: whoever can reach port {} and has the token can use the device, see the runs \
                 and upload images; the connection is not encrypted, so others on the way can read the token",
                self.address.port()
            ));
        }
        notes.push(format!(
            "{}: {}; priority lowered by {}",
            self.device.description,
            self.state.limit.describe(),
            self.niceness
        ));
        notes.extend(self.state.catalogue.notes());
        notes
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn run(self) -> Result<()> {
        self.listener.set_nonblocking(true)?;
        worker::start(Arc::clone(&self.state), self.device, self.niceness)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(connections::BLOCKING_THREADS)
            .build()?;
        runtime.block_on(async {
            tokio::spawn(watch::poll(Arc::clone(&self.state.runs)));
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            connections::accept(listener, routes::router(self.state)).await
        })
    }
}
