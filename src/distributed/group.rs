//! The group of a process: meeting, agreeing, handing on, comparing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tch::{Device, Tensor};

use super::heart::{FAILED, Heart, LEFT, Watch, key_of};
use super::meet::{
    FAREWELL_OF_FAILED, LOOK_EVERY, Member, await_leaving, beside, join_store, keys_of_program,
    listen, meet, server,
};
use super::store::Store;
use super::{Place, RankLost};
use crate::native::{self, KeyStore, Pending, ProcessGroup};
use crate::text::one_line;

/// Longest time of a collective: as long as all ranks live, one may be slow, as rank 0 is while it draws grids.
const COLLECTIVE: Duration = Duration::from_secs(30 * 86_400);

/// Time in which a rank that lives gives a new sign, many times over.
const SIGN_WITHIN: Duration = Duration::from_secs(3);

/// Longest time that rank 0 stays at the end, so that the others find the store that it serves.
const FAREWELL: Duration = Duration::from_secs(10);

/// The ranks that were started together, as one of them sees them.
#[derive(Debug)]
pub struct Group {
    place: Place,
    /// Names of all ranks, with process and host.
    names: Vec<String>,
    /// Their hosts, each by a name that no other has.
    hosts: Vec<String>,
    /// Keys of this attempt.
    store: Store,
    /// Keys that later attempts see too.
    lasting: Store,
    heart: Heart,
    /// Never dropped while work of theirs hangs: they would wait for it.
    gloo: Option<ProcessGroup>,
    /// Between CUDA devices.
    nccl: Option<Arc<ProcessGroup>>,
    /// Exchanges through the store so far; the same on all ranks.
    exchanges: AtomicU64,
    left: AtomicBool,
    /// The connection whose end is the end of the server, if this rank serves the store.
    _server: KeyStore,
}

impl Group {
    /// Meets the other ranks, and connects with them for tensors on the CPU and on `device`. `limit` is the longest time
    /// that a rank may give no sign of life. `tell` hears whom this waits for, if it takes long.
    ///
    /// # Errors
    /// A store that cannot be reached or served; a rank that does not come within ten minutes, or that
    /// [says](super::fail_before_meeting) that it will not.
    pub fn join(
        place: Place,
        limit: Duration,
        device: Device,
        tell: &dyn Fn(&str),
    ) -> Result<Arc<Group>> {
        let server = server(&place);
        let keys = join_store(&place, tell)?;
        let (own, lasting) = keys_of_program(&keys, &place)?;
        let in_attempt = |keys: KeyStore| keys.below(&own);
        let store = Store::new(in_attempt(keys.again()?)?, server.clone(), limit)?;
        let lasting = keys.again()?.below(&lasting)?;
        let lasting = Store::new(lasting, server.clone(), limit)?;
        let members = meet(&place, &store, tell)?;
        let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        let next = (place.rank + 1) % place.size;
        let watch = Watch {
            own: place.rank,
            next,
            next_name: names[next as usize].clone(),
            here: on_this_host(&place, &members),
            limit,
            server,
        };
        let heart = Heart::start(in_attempt(keys.again()?)?, watch)?;
        let (rank, size) = (place.rank, place.size);
        let listen = listen(&place);
        let gloo_keys = in_attempt(keys.again()?)?.below("gloo/")?;
        let gloo = beside(&heart, move || {
            ProcessGroup::gloo(&gloo_keys, rank, size, &listen, COLLECTIVE)
        });
        let gloo = gloo.context(
            "the ranks cannot be connected; GLOO_SOCKET_IFNAME names the network interface to use",
        )?;
        let nccl = match device {
            Device::Cuda(index) => {
                let keys = in_attempt(keys.again()?)?.below("nccl/")?;
                let nccl = beside(&heart, move || {
                    ProcessGroup::nccl(&keys, rank, size, index, COLLECTIVE)
                });
                Some(Arc::new(nccl.context("the GPUs cannot be connected")?))
            }
            _ => None,
        };
        if let Some(nccl) = &nccl {
            // Or whoever waits for the device would wait for ever.
            let nccl = Arc::clone(nccl);
            heart.on_loss(move || drop(nccl.abort()));
        }
        Ok(Arc::new(Group {
            place,
            names,
            hosts: members.into_iter().map(|member| member.host).collect(),
            store,
            lasting,
            heart,
            gloo: Some(gloo),
            nccl,
            exchanges: AtomicU64::new(0),
            left: AtomicBool::new(false),
            _server: keys,
        }))
    }

    /// The place of this process.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Number of ranks.
    pub fn size(&self) -> i64 {
        i64::from(self.place.size)
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> i64 {
        i64::from(self.place.rank)
    }

    /// True for rank 0, which alone writes files.
    pub fn leads(&self) -> bool {
        self.place.rank == 0
    }

    /// The first of the ranks on this one's host, and how many they are.
    pub fn ranks_here(&self) -> (i64, i64) {
        let own = &self.hosts[self.place.rank as usize];
        let here = || (0..).zip(&self.hosts).filter(|(_, host)| *host == own);
        let first = here().next().map_or(self.rank(), |(first, _)| first);
        (first, here().count() as i64)
    }

    /// The smallest of the numbers of all ranks; `None` if one has none.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn smallest(&self, own: Option<u64>) -> Result<Option<u64>> {
        let number = own.map(|own| i64::try_from(own).unwrap_or(i64::MAX));
        let ask = self.ask(&[-number.unwrap_or(0), i64::from(number.is_none())])?;
        let answer = self.answer(ask)?;
        Ok((answer[1] == 0).then(|| answer[0].unsigned_abs()))
    }

    /// Looks whether all ranks live, without waiting for any: for a rank that has nothing to say to them for long.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn check(&self) -> Result<()> {
        self.heart.check()
    }

    /// Hands the bytes that rank 0 makes on to all ranks, which wait for them as long as rank 0 lives.
    ///
    /// # Errors
    /// Of `make`, on rank 0, which must then [`fail`](Group::fail); [`RankLost`].
    pub fn share(&self, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let key = self.exchange("share");
        if self.leads() {
            let value = make()?;
            self.store.set(&key, &value)?;
            return Ok(value);
        }
        self.wait_for(&key)
    }

    /// Has rank 0 do `work`, and the others wait until it is done.
    ///
    /// # Errors
    /// As [`share`](Group::share).
    pub fn follow(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.share(|| work().map(|()| Vec::new())).map(drop)
    }

    /// What each rank has to say, in the order of the ranks.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn gather(&self, own: &str) -> Result<Vec<String>> {
        let key = self.exchange("gather");
        let of = |rank: u32| format!("{key}/{rank}");
        self.store.set(&of(self.place.rank), own.as_bytes())?;
        let text = |rank| Ok(String::from_utf8_lossy(&self.wait_for(&of(rank))?).into_owned());
        (0..self.place.size).map(text).collect()
    }

    /// Checks that `own`, a text of one line or more, is the same on all ranks.
    ///
    /// # Errors
    /// On all ranks, where one has another: its name, and the first lines that differ. [`RankLost`].
    pub fn compare(&self, what: &str, own: &str) -> Result<()> {
        let key = self.exchange("compare");
        let of = |rank: u32| format!("{key}/{rank}");
        if !self.leads() {
            self.store.set(&of(self.place.rank), own.as_bytes())?;
        }
        let verdict = self.share(|| {
            for rank in 1..self.place.size {
                let theirs = self.wait_for(&of(rank))?;
                let theirs = String::from_utf8_lossy(&theirs);
                if theirs != own {
                    let name = &self.names[rank as usize];
                    return Ok(difference(what, name, &theirs, own).into_bytes());
                }
            }
            Ok(Vec::new())
        })?;
        match verdict.is_empty() {
            true => Ok(()),
            false => bail!("{}", String::from_utf8_lossy(&verdict)),
        }
    }

    /// Begins to ask all ranks for the largest of each number.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn ask(&self, own: &[i64]) -> Result<Ask> {
        let numbers = Tensor::from_slice(own);
        let begun = self.between(Device::Cpu)?.largest(&numbers);
        let pending = begun.map_err(|error| self.diagnose(&error))?;
        Ok(Ask { numbers, pending })
    }

    /// The answer, once all ranks have asked.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn answer(&self, ask: Ask) -> Result<Vec<i64>> {
        self.wait(&ask.pending)?;
        Ok(Vec::try_from(ask.numbers)?)
    }

    /// Copies the tensors of rank 0 into those of all ranks.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn broadcast(&self, tensors: &[Tensor]) -> Result<()> {
        for tensor in tensors {
            let begun = self.between(tensor.device())?.broadcast(tensor);
            self.wait(&begun.map_err(|error| self.diagnose(&error))?)?;
        }
        Ok(())
    }

    /// The tensors `own`, `[N]`, of all ranks, as `[ranks, N]`.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn all_gather(&self, own: &Tensor) -> Result<Tensor> {
        let len = own.numel() as i64;
        let all = Tensor::f_empty([self.size() * len], (own.kind(), own.device()))?;
        let begun = self.between(own.device())?.all_gather(&all, own);
        self.wait(&begun.map_err(|error| self.diagnose(&error))?)?;
        Ok(all.view([self.size(), len]))
    }

    /// Sums a tensor over all ranks, in place.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn sum(&self, tensor: &Tensor) -> Result<()> {
        let begun = self.between(tensor.device())?.sum(tensor);
        self.wait(&begun.map_err(|error| self.diagnose(&error))?)
    }

    /// The collectives between tensors on `device`.
    pub(super) fn between(&self, device: Device) -> Result<&ProcessGroup> {
        let group = match device {
            Device::Cuda(_) => self.nccl.as_deref(),
            _ => self.gloo.as_ref(),
        };
        group.context("this group was not joined for CUDA")
    }

    fn wait(&self, pending: &Pending) -> Result<()> {
        self.wait_until(|patience| pending.wait(patience))
    }

    /// Waits for what `done` waits for, while all ranks live.
    ///
    /// # Errors
    /// [`RankLost`].
    pub(super) fn wait_until(&self, done: impl Fn(Duration) -> Result<bool>) -> Result<()> {
        loop {
            match done(LOOK_EVERY) {
                Ok(true) => return Ok(()),
                Ok(false) => self.heart.check()?,
                Err(error) => return Err(self.diagnose(&error)),
            }
        }
    }

    fn wait_for(&self, key: &str) -> Result<Vec<u8>> {
        let mut pause = Duration::from_millis(1);
        loop {
            let found = self.store.get(key);
            if let Ok(Some(value)) = found {
                return Ok(value);
            }
            // Before a store that is gone because a rank has failed.
            self.heart.check()?;
            found?;
            thread::sleep(pause);
            pause = (pause * 2).min(LOOK_EVERY);
        }
    }

    fn exchange(&self, kind: &str) -> String {
        format!("{kind}/{}", self.exchanges.fetch_add(1, Ordering::Relaxed))
    }

    /// Which rank is behind an error of a collective.
    pub(super) fn diagnose(&self, error: &anyhow::Error) -> anyhow::Error {
        let signs = || -> Result<Vec<Option<Vec<u8>>>> {
            let of = |rank| self.store.get(&key_of(rank));
            (0..self.place.size).map(of).collect()
        };
        let silent = || -> Result<Vec<u32>> {
            let before = signs()?;
            let until = Instant::now() + SIGN_WITHIN;
            while Instant::now() < until {
                self.heart.check()?;
                thread::sleep(LOOK_EVERY);
            }
            let now = signs()?;
            let silent = |rank: &u32| {
                let rank = *rank as usize;
                before[rank] == now[rank] && now[rank].as_deref() != Some(LEFT)
            };
            Ok((0..self.place.size).filter(silent).collect())
        };
        let said = one_line(&format!("{error:#}"));
        // Without the line of Gloo's source that it is from.
        let said = said
            .split_once("] ")
            .filter(|_| said.starts_with('['))
            .map_or(&*said, |(_, said)| said);
        match silent() {
            Err(known) => known,
            Ok(silent) if silent.is_empty() => {
                RankLost(format!("the ranks lost each other: {said}")).into()
            }
            Ok(silent) => {
                let names: Vec<&str> = silent.iter().map(|r| &*self.names[*r as usize]).collect();
                let are = if names.len() == 1 { "is" } else { "are" };
                let lost = format!("{} {are} gone ({said})", names.join(", "));
                let _ = self.store.set(FAILED, lost.as_bytes());
                RankLost(lost).into()
            }
        }
    }

    /// Tells the other ranks why this one ends; they stop too.
    pub fn fail(&self, why: &str) {
        let own = &self.names[self.place.rank as usize];
        let said = format!("{own} has failed: {}", one_line(&why));
        let _ = self.store.set(FAILED, said.as_bytes());
        self.linger();
    }

    /// Before a process ends that serves the store: waits until the others know why.
    pub fn linger(&self) {
        if self.place.serves {
            await_leaving(&self.store, self.place.size, FAREWELL_OF_FAILED);
        }
    }

    /// Goes, with nothing more to do; others may still be at work.
    pub fn leave(&self) {
        self.heart.leave();
        self.heart.on_loss(|| ());
        self.left.store(true, Ordering::Relaxed);
        if self.place.serves {
            await_leaving(&self.store, self.place.size, FAREWELL);
        }
    }

    /// A value that later attempts of this group find, if torchrun starts it again.
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn remember(&self, key: &str, value: &str) -> Result<()> {
        self.lasting.set(key, value.as_bytes())
    }

    /// A value that an earlier attempt has [remembered](Group::remember).
    ///
    /// # Errors
    /// [`RankLost`].
    pub fn recall(&self, key: &str) -> Result<Option<String>> {
        let value = self.lasting.get(key)?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.left.load(Ordering::Relaxed) {
            // Threads of c10d may hang in work that never ends, and the process must end without them.
            native::exit_without_cleanup();
            std::mem::forget((self.nccl.take(), self.gloo.take()));
        }
    }
}

/// A question to all ranks that is under way.
#[derive(Debug)]
pub struct Ask {
    numbers: Tensor,
    pending: Pending,
}

/// The other ranks whose processes this one can see: number, process and name.
fn on_this_host(place: &Place, members: &[Member]) -> Vec<(u32, u32, String)> {
    let own = &members[place.rank as usize];
    let others = (0..).zip(members).filter(|(rank, _)| *rank != place.rank);
    let here = others
        .filter(|(_, member)| (&member.host, &member.namespace) == (&own.host, &own.namespace));
    here.map(|(rank, member)| (rank, member.process, member.name.clone()))
        .collect()
}

/// What differs, in words, between the texts of a rank and of rank 0.
fn difference(what: &str, name: &str, theirs: &str, ours: &str) -> String {
    let (mut theirs, mut ours) = (theirs.lines(), ours.lines());
    let shown = |line: Option<&str>| match line {
        Some(line) => format!("`{}`", line.chars().take(200).collect::<String>()),
        None => "nothing".to_owned(),
    };
    loop {
        let (theirs, ours) = (theirs.next(), ours.next());
        if theirs != ours || theirs.is_none() {
            return format!(
                "{name} has another {what} than rank 0: {}, not {}; start all ranks alike",
                shown(theirs),
                shown(ours)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_by_its_first_line() {
        let told = |theirs, ours| difference("setting", "rank 1", theirs, ours);
        let seed = told("a = 1\nseed = 2\nz = 0", "a = 1\nseed = 1\nz = 9");
        assert!(
            seed.contains("setting than rank 0: `seed = 2`, not `seed = 1`"),
            "{seed}"
        );
        let less = told("a = 1", "a = 1\nb = 2");
        assert!(less.contains("nothing, not `b = 2`"), "{less}");
    }
}
