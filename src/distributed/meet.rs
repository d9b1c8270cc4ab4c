//! Meeting the other ranks: the store, their names, the way to each other.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::Place;
use super::heart::Heart;
use super::store::Store;
use crate::native::{Listen, ProcessGroup};
use crate::text::one_line;

/// Longest time until all ranks are there: hosts may start minutes apart.
pub(super) const MEETING: Duration = Duration::from_secs(600);

/// Interval at which a rank that waits looks whether the others live.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What serves the store, in words.
pub(super) fn server(place: &Place) -> String {
    format!("the store at {}:{}", place.master, place.port)
}

pub(super) fn no_store(place: &Place, error: &anyhow::Error) -> anyhow::Error {
    let said = one_line(&format!("{error:#}"));
    let server = server(place);
    match place.serves {
        true => anyhow!("rank 0 cannot serve {server}: {said}; MASTER_PORT names another port"),
        false => anyhow!(
            "{server}, where ranks meet, does not answer: {said}; see that rank 0 runs there, and that nothing between \
             the hosts blocks the port"
        ),
    }
}

/// Says that this rank is there, and waits for all others; returns their names.
pub(super) fn meet(place: &Place, store: &Store) -> Result<Vec<String>> {
    let key = |rank: u32| format!("name/{rank}");
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let own = format!(
        "rank {} (process {} on {host})",
        place.rank,
        std::process::id()
    );
    store.set(&key(place.rank), own.as_bytes())?;
    let until = Instant::now() + MEETING;
    let mut names = Vec::new();
    while names.len() < place.size as usize {
        let rank = names.len() as u32;
        match store.get(&key(rank))? {
            Some(name) => names.push(String::from_utf8_lossy(&name).into_owned()),
            None if Instant::now() > until => bail!(
                "rank {rank} of {} did not come within {} min",
                place.size,
                MEETING.as_secs() / 60
            ),
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
    Ok(names)
}

/// What `make` makes with all ranks, which it waits for: beside, while this looks whether they live.
pub(super) fn beside(
    heart: &Heart,
    make: impl FnOnce() -> Result<ProcessGroup> + Send + 'static,
) -> Result<ProcessGroup> {
    let (tell, made) = channel();
    let thread = thread::Builder::new().name("connect".to_owned());
    thread.spawn(move || drop(tell.send(make())))?;
    loop {
        match made.recv_timeout(LOOK_EVERY) {
            Ok(group) => return group,
            Err(RecvTimeoutError::Timeout) => heart.check()?,
            Err(RecvTimeoutError::Disconnected) => bail!("the thread that connects ranks has died"),
        }
    }
}

/// Where this rank listens: at the interface that GLOO_SOCKET_IFNAME names, as in PyTorch, or at the address from which
/// it reaches the store. A host's name often resolves to an address that only the host itself can reach.
pub(super) fn listen(place: &Place) -> Listen {
    let named = std::env::var("GLOO_SOCKET_IFNAME").ok();
    let named = named.and_then(|names| Some(names.split(',').next()?.trim().to_owned()));
    if let Some(interface) = named.filter(|name| !name.is_empty()) {
        return Listen::Interface(interface);
    }
    let reach = || -> std::io::Result<IpAddr> {
        let anywhere = match (&*place.master, place.port).to_socket_addrs()?.next() {
            Some(SocketAddr::V6(_)) => "[::]:0",
            _ => "0.0.0.0:0",
        };
        // Nothing is sent: the system only chooses the way.
        let socket = UdpSocket::bind(anywhere)?;
        socket.connect((&*place.master, place.port))?;
        Ok(socket.local_addr()?.ip())
    };
    match reach() {
        Ok(address) => Listen::Host(address.to_string()),
        Err(_) => Listen::ByName,
    }
}
