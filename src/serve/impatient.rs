//! A connection that ends when its other side takes nothing of an answer for long.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A stream whose writes fail after some time without progress. Hyper has a limit for reading headers, and none for this.
#[derive(Debug)]
pub(super) struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Ends the patience with the write that waits.
    alarm: Pin<Box<Sleep>>,
    waits: bool,
}

impl<S> Impatient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Impatient<S> {
        Impatient {
            stream,
            patience,
            alarm: Box::pin(sleep(patience)),
            waits: false,
        }
    }

    /// The outcome of a write, or an error if it has waited for too long.
    fn limit<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waits = false;
            return outcome;
        }
        if !self.waits {
            self.waits = true;
            self.alarm.as_mut().reset(Instant::now() + self.patience);
        }
        ready!(self.alarm.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(shut, context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// More than the system takes for a connection whose other side reads nothing.
    const BYTES: usize = 32 << 20;
    const PATIENCE: Duration = Duration::from_millis(300);

    async fn write(stream: &mut Impatient<tokio::net::TcpStream>) -> io::Result<()> {
        let bytes = vec![1; 1 << 16];
        let mut left = BYTES;
        while left > 0 {
            let some = &bytes[..left.min(bytes.len())];
            left -= poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, some)).await?;
        }
        Ok(())
    }

    #[test]
    fn who_takes_nothing_ends_the_connection_and_who_is_slow_does_not() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let slow = thread::spawn(move || {
            let mut theirs = TcpStream::connect(address).unwrap();
            let mut bytes = vec![0; 1 << 20];
            for part in 0..BYTES >> 20 {
                theirs.read_exact(&mut bytes).unwrap();
                thread::sleep(if part < 20 {
                    PATIENCE / 10
                } else {
                    Duration::ZERO
                });
            }
            theirs
        });
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let error = runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(ours).unwrap();
            let mut ours = Impatient::new(stream, PATIENCE);
            write(&mut ours).await.unwrap();
            let _silent = slow.join().unwrap();
            write(&mut ours).await.unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
