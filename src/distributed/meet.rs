//! Meeting the other ranks: the store, their names, the way to each other.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::Place;
use super::heart::Heart;
use super::store::Store;
use crate::native::{KeyStore, Listen, ProcessGroup};
use crate::text::one_line;

/// Longest time until all ranks are there: hosts may start minutes apart.
const MEETING: Duration = Duration::from_secs(600);

/// Time after which a rank says what it waits for.
const QUIET: Duration = Duration::from_secs(10);

/// Interval at which a rank that waits looks whether the others live.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What serves the store, in words.
pub(super) fn server(place: &Place) -> String {
    format!("the store at {}:{}", place.master, place.port)
}

fn no_store(place: &Place, error: &anyhow::Error) -> anyhow::Error {
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

/// A rank as the others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// What to call it: number, process, host.
    pub(super) name: String,
    /// Number of its process.
    pub(super) process: u32,
    /// Where that number means something: host, start of its system, and namespace of processes.
    pub(super) place: String,
}

impl Member {
    fn this(place: &Place) -> Member {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        let process = std::process::id();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Member {
            name: format!("rank {} (process {process} on {host})", place.rank),
            process,
            place: format!("{host} {} {}", boot.trim(), namespace.display()),
        }
    }

    fn to_text(&self, size: u32) -> String {
        format!("{size}\n{}\n{}\n{}", self.process, self.place, self.name)
    }

    /// Its number of ranks, and itself.
    fn of_text(text: &str) -> Option<(u32, Member)> {
        let mut lines = text.lines();
        let size = lines.next()?.parse().ok()?;
        let process = lines.next()?.parse().ok()?;
        let place = lines.next()?.to_owned();
        let name = lines.next()?.to_owned();
        Some((
            size,
            Member {
                name,
                process,
                place,
            },
        ))
    }
}

/// The store, once it answers. `tell` hears what is waited for.
///
/// # Errors
/// A host whose name is not known; nothing answers within [`MEETING`]; the port is taken.
pub(super) fn join_store(place: &Place, tell: &dyn Fn(&str)) -> Result<KeyStore> {
    let server = server(place);
    let found = (&*place.master, place.port).to_socket_addrs();
    if let Err(error) = found {
        bail!(
            "{server}, where ranks meet: the name of the host cannot be resolved ({error}); MASTER_ADDR names it"
        );
    }
    let (answer, joined) = channel();
    let of = place.clone();
    let join = move || {
        let keys = KeyStore::join(&of.master, of.port, of.serves, MEETING);
        drop(answer.send(keys));
    };
    thread::Builder::new()
        .name("store".to_owned())
        .spawn(join)?;
    if let Ok(keys) = joined.recv_timeout(QUIET) {
        return keys.map_err(|error| no_store(place, &error));
    }
    tell(&format!("waiting for {server}, where ranks meet"));
    match joined.recv_timeout(MEETING) {
        Ok(keys) => keys.map_err(|error| no_store(place, &error)),
        Err(_) => Err(no_store(
            place,
            &anyhow!("no answer for {} min", MEETING.as_secs() / 60),
        )),
    }
}

/// Says that this rank is there, and waits for all others; returns all of them. `tell` hears what is waited for.
pub(super) fn meet(place: &Place, store: &Store, tell: &dyn Fn(&str)) -> Result<Vec<Member>> {
    let key = |rank: u32| format!("member/{rank}");
    let own = Member::this(place).to_text(place.size);
    store.set(&key(place.rank), own.as_bytes())?;
    let began = Instant::now();
    let mut told = false;
    let mut members = Vec::new();
    while members.len() < place.size as usize {
        let rank = members.len() as u32;
        if let Some(text) = store.get(&key(rank))? {
            let text = String::from_utf8_lossy(&text);
            let (size, member) = Member::of_text(&text).context("ranks of another program")?;
            if size != place.size {
                if place.serves {
                    // So that the others find it too, before the store is gone.
                    thread::sleep(Duration::from_secs(1));
                }
                bail!(
                    "{} counts {size} ranks, and rank {} counts {}; start all ranks alike",
                    member.name,
                    place.rank,
                    place.size
                );
            }
            members.push(member);
            continue;
        }
        let waited = began.elapsed();
        ensure!(
            waited < MEETING,
            "rank {rank} of {} did not come within {} min",
            place.size,
            MEETING.as_secs() / 60
        );
        if waited > QUIET && !told {
            tell(&format!(
                "waiting for rank {rank} of {} to come",
                place.size
            ));
            told = true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(members)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_what_it_wrote() {
        let member = Member {
            name: "rank 1 (process 7 on host)".to_owned(),
            process: 7,
            place: "host 123 pid:[4]".to_owned(),
        };
        assert_eq!(Member::of_text(&member.to_text(3)), Some((3, member)));
        assert_eq!(Member::of_text("rank 1 of an older program"), None);
    }
}
