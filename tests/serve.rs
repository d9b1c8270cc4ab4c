//! `ddpm serve`, asked over its port as a browser does, and as others might.

#[path = "serve/client.rs"]
mod client;
mod common;
#[path = "serve/jobs.rs"]
mod jobs;
#[path = "serve/refused.rs"]
mod refused;
#[path = "serve/started.rs"]
mod started;
