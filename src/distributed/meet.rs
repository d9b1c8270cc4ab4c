//! Meeting the other ranks: the store, their names, the way to each other.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::heart::{FAILED, Heart, LEFT, key_of};
use super::store::Store;
use super::{Place, RankLost};
use crate::native::{self, KeyStore, Listen, ProcessGroup};
use crate::text::one_line;

/// Longest time until all ranks are there: hosts may start minutes apart.
const MEETING: Duration = Duration::from_secs(600);

/// Time after which a rank says what it waits for.
const QUIET: Duration = Duration::from_secs(10);

/// Longest time that rank 0 serves the store after a failure, for others to learn of it: one rank may be dead.
pub(super) const FAREWELL_OF_FAILED: Duration = Duration::from_secs(2);

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
    /// The machine: its name and the start of its system.
    pub(super) host: String,
    /// Its namespace of processes, where that number means something.
    pub(super) namespace: String,
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
            host: format!("{host} {}", boot.trim()),
            namespace: namespace.display().to_string(),
        }
    }

    fn to_text(&self, size: u32) -> String {
        let Member {
            process,
            host,
            namespace,
            name,
        } = self;
        format!("{size}\n{process}\n{host}\n{namespace}\n{name}")
    }

    /// Its number of ranks, and itself.
    fn of_text(text: &str) -> Option<(u32, Member)> {
        let mut lines = text.lines();
        let size = lines.next()?.parse().ok()?;
        let process = lines.next()?.parse().ok()?;
        let mut text = || Some(lines.next()?.to_owned());
        let (host, namespace, name) = (text()?, text()?, text()?);
        Some((
            size,
            Member {
                name,
                process,
                host,
                namespace,
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
    tell(&format!(
        "waiting for {server}, where ranks meet, for up to {} min",
        MEETING.as_secs() / 60
    ));
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
        if let Some(failed) = store.get(FAILED)? {
            store.set(&key_of(place.rank), LEFT)?;
            if place.serves {
                await_leaving(store, place.size, FAREWELL_OF_FAILED);
            }
            return Err(RankLost(String::from_utf8_lossy(&failed).into_owned()).into());
        }
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
                "waiting for rank {rank} of {} to come, for up to {} min",
                place.size,
                MEETING.as_secs() / 60
            ));
            told = true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(members)
}

/// The keys of the program that a rank runs now, `attempt`'s and those that later attempts see: torchrun's agent keeps
/// its store, where a script may run several programs, one after another.
pub(super) fn keys_of_program(keys: &KeyStore, place: &Place) -> Result<(String, String)> {
    let attempt = format!("ddpm/attempt-{}/", place.attempt);
    let number = keys
        .below(&attempt)?
        .add(&format!("programs/{}", place.rank), 1)?;
    Ok((
        format!("{attempt}program-{number}/"),
        format!("ddpm/program-{number}/"),
    ))
}

/// Waits until all ranks but rank 0 have said that they go, at most for a time.
pub(super) fn await_leaving(store: &Store, size: u32, patience: Duration) {
    let until = Instant::now() + patience;
    let gone = |rank| matches!(store.get(&key_of(rank)), Ok(Some(sign)) if sign == LEFT);
    while Instant::now() < until && !(1..size).all(gone) {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Longest time that a rank which fails before it has met the others tries to reach the store.
const REACHING: Duration = Duration::from_secs(2);

/// Tells the ranks that wait for this one that it fails, and why, before it has met them: they end too. A store that
/// cannot be reached within two seconds changes nothing, and they wait for ten minutes.
pub fn fail_before_meeting(place: &Place, why: &str) {
    let (done, told) = channel();
    let why = format!(
        "{} has failed: {}",
        Member::this(place).name,
        one_line(&why)
    );
    let of = place.clone();
    let tell = move || {
        let _ = tell_before_meeting(&of, &why);
        let _ = done.send(());
    };
    let thread = thread::Builder::new().name("store".to_owned()).spawn(tell);
    if thread.is_err()
        || told
            .recv_timeout(2 * REACHING + FAREWELL_OF_FAILED)
            .is_err()
    {
        // It may hang in the store.
        native::exit_without_cleanup();
    }
}

fn tell_before_meeting(place: &Place, why: &str) -> Result<()> {
    let keys = KeyStore::join(&place.master, place.port, place.serves, REACHING)?;
    let (own, _) = keys_of_program(&keys, place)?;
    let store = Store::new(keys.again()?.below(&own)?, server(place), REACHING)?;
    store.set(FAILED, why.as_bytes())?;
    store.set(&key_of(place.rank), LEFT)?;
    if place.serves {
        await_leaving(&store, place.size, FAREWELL_OF_FAILED);
    }
    Ok(())
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
            host: "host 123".to_owned(),
            namespace: "pid:[4]".to_owned(),
        };
        assert_eq!(Member::of_text(&member.to_text(3)), Some((3, member)));
        assert_eq!(Member::of_text("rank 1 of an older program"), None);
    }
}
