//! Process groups of libtorch's c10d: a store of keys, collectives, and gradients that are summed in buckets.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::null;
use std::time::Duration;

use anyhow::{Result, ensure};
use tch::Tensor;

use super::nccl::nccl_backend;
use super::{check, ptr, ptrs};

unsafe extern "C" {
    fn ddpm_store_join(
        host: *const c_char,
        port: c_int,
        serves: c_int,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_store_again(store: *mut c_void, out: *mut *mut c_void) -> c_int;
    fn ddpm_store_below(store: *mut c_void, prefix: *const c_char, out: *mut *mut c_void) -> c_int;
    fn ddpm_store_drop(store: *mut c_void);
    fn ddpm_store_set(
        store: *mut c_void,
        key: *const c_char,
        value: *const u8,
        length: usize,
    ) -> c_int;
    fn ddpm_store_get(
        store: *mut c_void,
        key: *const c_char,
        there: *mut c_int,
        value: *mut *const u8,
        length: *mut usize,
    ) -> c_int;
    fn ddpm_store_add(store: *mut c_void, key: *const c_char, number: i64, sum: *mut i64) -> c_int;
    fn ddpm_group_gloo(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        host: *const c_char,
        interface: *const c_char,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_nccl_leaves_failures_to_us() -> c_int;
    fn ddpm_group_drop(group: *mut c_void);
    fn ddpm_group_abort(group: *mut c_void) -> c_int;
    fn ddpm_group_all_reduce(
        group: *mut c_void,
        tensor: *const c_void,
        largest: c_int,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_group_broadcast(
        group: *mut c_void,
        tensor: *const c_void,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_group_all_gather(
        group: *mut c_void,
        all: *const c_void,
        own: *const c_void,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_pending_wait(pending: *mut c_void, timeout_ms: i64, done: *mut c_int) -> c_int;
    fn ddpm_pending_drop(pending: *mut c_void);
    fn ddpm_buckets_make(
        group: *mut c_void,
        grads: *const c_void,
        starts: *const i64,
        lengths: *const i64,
        count: i64,
        weights: *const *const c_void,
        bucket_of: *const i64,
        weight_count: i64,
        in_bf16: c_int,
        out: *mut *mut c_void,
    ) -> c_int;
    fn ddpm_buckets_arm(buckets: *mut c_void) -> c_int;
    fn ddpm_buckets_launch_rest(buckets: *mut c_void) -> c_int;
    fn ddpm_buckets_wait(buckets: *mut c_void, timeout_ms: i64, done: *mut c_int) -> c_int;
    fn ddpm_buckets_busy_ns(buckets: *mut c_void) -> i64;
    fn ddpm_buckets_drop(buckets: *mut c_void);
    fn ddpm_exit_without_cleanup();
}

/// Has this process end without the destructors of libraries, with the exit code that it ends with: threads that hang in
/// them would be waited for.
pub fn exit_without_cleanup() {
    // SAFETY: registers a handler that ends the process.
    unsafe { ddpm_exit_without_cleanup() }
}

/// What the shim made, and the function that frees it.
#[derive(Debug)]
struct Handle {
    at: *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
}

impl Handle {
    /// `make` writes a handle to the place that it is given.
    fn made(
        free: unsafe extern "C" fn(*mut c_void),
        make: impl FnOnce(*mut *mut c_void) -> c_int,
    ) -> Result<Handle> {
        let mut at = std::ptr::null_mut();
        check(make(&mut at))?;
        Ok(Handle { at, free })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by the shim for this function, and freed once.
        unsafe { (self.free)(self.at) }
    }
}

// SAFETY: the objects behind are c10d's, whose counts of references are atomic, and none is bound to a thread.
unsafe impl Send for Handle {}
// SAFETY: stores lock around their connection, and groups and pending work around their queues.
unsafe impl Sync for Handle {}

fn text(text: &str) -> Result<CString> {
    Ok(CString::new(text)?)
}

fn millis(limit: Duration) -> i64 {
    i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)
}

/// Keys and values that all ranks of a group see, on a server that one process runs.
///
/// One call at a time: a second one waits for the first.
#[derive(Debug)]
pub struct KeyStore {
    handle: Handle,
}

impl KeyStore {
    /// Connects to the server at `host` and `port`, for up to `limit`; with `serves`, this process runs it.
    ///
    /// # Errors
    /// Nothing answers; the port is taken.
    pub fn join(host: &str, port: u16, serves: bool, limit: Duration) -> Result<KeyStore> {
        let host = text(host)?;
        let handle = Handle::made(ddpm_store_drop, |out| {
            // SAFETY: a NUL-terminated name that lives for the call, and a place for the handle.
            unsafe {
                ddpm_store_join(
                    host.as_ptr(),
                    c_int::from(port),
                    c_int::from(serves),
                    millis(limit),
                    out,
                )
            }
        })?;
        Ok(KeyStore { handle })
    }

    /// The same keys through another connection.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn again(&self) -> Result<KeyStore> {
        // SAFETY: a live store, and a place for the handle.
        let handle = Handle::made(ddpm_store_drop, |out| unsafe {
            ddpm_store_again(self.handle.at, out)
        })?;
        Ok(KeyStore { handle })
    }

    /// The keys that begin with `prefix`.
    ///
    /// # Errors
    /// A NUL in the prefix.
    pub fn below(&self, prefix: &str) -> Result<KeyStore> {
        let prefix = text(prefix)?;
        // SAFETY: a live store and a NUL-terminated text, and a place for the handle.
        let handle = Handle::made(ddpm_store_drop, |out| unsafe {
            ddpm_store_below(self.handle.at, prefix.as_ptr(), out)
        })?;
        Ok(KeyStore { handle })
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The server is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = text(key)?;
        // SAFETY: a live store, a NUL-terminated key, and as many bytes as are said.
        check(unsafe { ddpm_store_set(self.handle.at, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Adds to the number that a key stands for, 0 before; returns the sum.
    ///
    /// # Errors
    /// The server is gone.
    pub fn add(&self, key: &str, number: i64) -> Result<i64> {
        let key = text(key)?;
        let mut sum = 0;
        // SAFETY: a live store, a NUL-terminated key, and a place for the result.
        check(unsafe { ddpm_store_add(self.handle.at, key.as_ptr(), number, &mut sum) })?;
        Ok(sum)
    }

    /// The value of a key, or `None` if nobody has set it.
    ///
    /// # Errors
    /// The server is gone.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let key = text(key)?;
        let (mut there, mut value, mut length) = (0, null(), 0);
        // SAFETY: a live store, a NUL-terminated key, and places for the results; the bytes stay until the next call
        // on this thread, and are copied here.
        unsafe {
            check(ddpm_store_get(
                self.handle.at,
                key.as_ptr(),
                &mut there,
                &mut value,
                &mut length,
            ))?;
            Ok((there != 0).then(|| match length {
                0 => Vec::new(),
                _ => std::slice::from_raw_parts(value, length).to_vec(),
            }))
        }
    }
}

/// Where Gloo listens for the other ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// What this host's name resolves to.
    ByName,
    /// A name or an address of this host.
    Host(String),
    /// A network interface.
    Interface(String),
}

/// The ranks of a group, and its collectives. All ranks begin the same ones in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    handle: Handle,
}

impl ProcessGroup {
    /// A group of Gloo, for tensors on the CPU. `limit` is the longest that a collective may take.
    ///
    /// # Errors
    /// A rank that does not come, or that cannot be reached.
    pub fn gloo(
        store: &KeyStore,
        rank: u32,
        size: u32,
        listen: &Listen,
        limit: Duration,
    ) -> Result<ProcessGroup> {
        let (host, interface) = match listen {
            Listen::ByName => (None, None),
            Listen::Host(host) => (Some(text(host)?), None),
            Listen::Interface(name) => (None, Some(text(name)?)),
        };
        let at = |text: &Option<CString>| text.as_ref().map_or(null(), |text| text.as_ptr());
        let handle = Handle::made(ddpm_group_drop, |out| {
            // SAFETY: a live store, texts that live for the call or null, and a place for the handle.
            unsafe {
                ddpm_group_gloo(
                    store.handle.at,
                    rank as c_int,
                    size as c_int,
                    at(&host),
                    at(&interface),
                    millis(limit),
                    out,
                )
            }
        })?;
        Ok(ProcessGroup { handle })
    }

    /// A group of NCCL, for tensors on CUDA device `device`. It waits for all ranks, without a limit of its own.
    ///
    /// # Errors
    /// NCCL cannot be used ([`nccl_part`](super::nccl_part)); no such device; ranks that cannot reach each other.
    pub fn nccl(
        store: &KeyStore,
        rank: u32,
        size: u32,
        device: usize,
        limit: Duration,
    ) -> Result<ProcessGroup> {
        // SAFETY: sets variables that NCCL's watchdog reads; the handle of the store is what the part takes.
        let at = unsafe {
            check(ddpm_nccl_leaves_failures_to_us())?;
            nccl_backend(
                store.handle.at.cast_const(),
                rank as usize,
                size as usize,
                device,
                limit,
            )?
        };
        let free = ddpm_group_drop;
        Ok(ProcessGroup {
            handle: Handle { at, free },
        })
    }

    /// Ends collectives that are under way, where the group can; Gloo's end with the process.
    ///
    /// # Errors
    /// As libtorch says.
    pub fn abort(&self) -> Result<()> {
        // SAFETY: a live group.
        check(unsafe { ddpm_group_abort(self.handle.at) })
    }

    /// Begins to sum `tensor` over all ranks, in place.
    ///
    /// # Errors
    /// A tensor that the group does not take; a rank is gone.
    pub fn sum(&self, tensor: &Tensor) -> Result<Pending> {
        self.all_reduce(tensor, false)
    }

    /// Begins to take the largest of each value of `tensor` over all ranks, in place.
    ///
    /// # Errors
    /// As [`sum`](ProcessGroup::sum).
    pub fn largest(&self, tensor: &Tensor) -> Result<Pending> {
        self.all_reduce(tensor, true)
    }

    fn all_reduce(&self, tensor: &Tensor, largest: bool) -> Result<Pending> {
        // SAFETY: a live group and tensor, and a place for the handle.
        Pending::begin(|out| unsafe {
            ddpm_group_all_reduce(self.handle.at, ptr(tensor), c_int::from(largest), out)
        })
    }

    /// Begins to copy the `tensor` of rank 0 into that of every rank.
    ///
    /// # Errors
    /// As [`sum`](ProcessGroup::sum).
    pub fn broadcast(&self, tensor: &Tensor) -> Result<Pending> {
        // SAFETY: a live group and tensor, and a place for the handle.
        Pending::begin(|out| unsafe { ddpm_group_broadcast(self.handle.at, ptr(tensor), out) })
    }

    /// Begins to collect the tensors `own`, `[N]`, of all ranks in `all`, `[ranks * N]`.
    ///
    /// # Errors
    /// As [`sum`](ProcessGroup::sum).
    pub fn all_gather(&self, all: &Tensor, own: &Tensor) -> Result<Pending> {
        // SAFETY: a live group and tensors, and a place for the handle.
        Pending::begin(|out| unsafe {
            ddpm_group_all_gather(self.handle.at, ptr(all), ptr(own), out)
        })
    }
}

/// A collective that is under way.
#[derive(Debug)]
pub struct Pending {
    handle: Handle,
}

impl Pending {
    fn begin(begin: impl FnOnce(*mut *mut c_void) -> c_int) -> Result<Pending> {
        let handle = Handle::made(ddpm_pending_drop, begin)?;
        Ok(Pending { handle })
    }

    /// Waits for its end, for at most `patience`; true once it has ended. On CUDA, what this thread queues from then on
    /// comes after it.
    ///
    /// # Errors
    /// What ended it early: a rank is gone.
    pub fn wait(&self, patience: Duration) -> Result<bool> {
        let mut done = 0;
        // SAFETY: a live handle, and a place for the result.
        check(unsafe { ddpm_pending_wait(self.handle.at, millis(patience), &mut done) })?;
        Ok(done != 0)
    }
}

/// A slice of a flat gradient, and the weights whose gradients are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Its first value.
    pub start: i64,
    /// Its length.
    pub len: i64,
    /// The weights, by their places in the list that [`Buckets::new`] gets.
    pub weights: std::ops::Range<usize>,
}

/// A flat gradient whose slices are summed over a group, each as soon as a backward pass has filled it.
#[derive(Debug)]
pub struct Buckets {
    handle: Handle,
    in_bf16: bool,
}

impl Buckets {
    /// Buckets that are sent in the order of `slices`, whatever the order in which they fill. With `in_bf16`, what
    /// travels is rounded to bf16, and so is the sum. One set of buckets is used at a time.
    ///
    /// # Errors
    /// A slice outside of `grads`, `[P]` f32.
    pub fn new(
        group: &ProcessGroup,
        grads: &Tensor,
        weights: &[Tensor],
        slices: &[Slice],
        in_bf16: bool,
    ) -> Result<Buckets> {
        let starts: Vec<i64> = slices.iter().map(|slice| slice.start).collect();
        let lengths: Vec<i64> = slices.iter().map(|slice| slice.len).collect();
        let mut bucket_of = vec![-1; weights.len()];
        for (number, slice) in slices.iter().enumerate() {
            bucket_of[slice.weights.clone()].fill(number as i64);
        }
        ensure!(
            !bucket_of.contains(&-1),
            "a weight whose gradient is in no bucket"
        );
        let handle = Handle::made(ddpm_buckets_drop, |out| {
            // SAFETY: live tensors and group; arrays as long as is said; bucket numbers are those of slices.
            unsafe {
                ddpm_buckets_make(
                    group.handle.at,
                    ptr(grads),
                    starts.as_ptr(),
                    lengths.as_ptr(),
                    slices.len() as i64,
                    ptrs(weights).as_ptr(),
                    bucket_of.as_ptr(),
                    weights.len() as i64,
                    c_int::from(in_bf16),
                    out,
                )
            }
        })?;
        Ok(Buckets { handle, in_bf16 })
    }

    /// Whether what travels is rounded to bf16.
    pub fn in_bf16(&self) -> bool {
        self.in_bf16
    }

    /// Has the next backward pass send the buckets: it must be the last that adds to them.
    ///
    /// # Errors
    /// Never, but as libtorch says.
    pub fn arm(&self) -> Result<()> {
        // SAFETY: a live handle.
        check(unsafe { ddpm_buckets_arm(self.handle.at) })
    }

    /// Ends what [`arm`](Buckets::arm) began: sends the buckets that the pass has not filled.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn send_rest(&self) -> Result<()> {
        // SAFETY: a live handle.
        check(unsafe { ddpm_buckets_launch_rest(self.handle.at) })
    }

    /// As [`Pending::wait`], for all buckets.
    ///
    /// # Errors
    /// What ended one early: a rank is gone.
    pub fn wait(&self, patience: Duration) -> Result<bool> {
        let mut done = 0;
        // SAFETY: a live handle, and a place for the result.
        check(unsafe { ddpm_buckets_wait(self.handle.at, millis(patience), &mut done) })?;
        Ok(done != 0)
    }

    /// Time since the last call in which at least one bucket was under way.
    pub fn busy(&self) -> Duration {
        // SAFETY: a live handle.
        let nanoseconds = unsafe { ddpm_buckets_busy_ns(self.handle.at) };
        Duration::from_nanos(nanoseconds.max(0) as u64)
    }
}
