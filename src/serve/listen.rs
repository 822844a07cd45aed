//! Connections: accepting them, how long they may take, and how they end.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

use super::http::{Service, router};

/// How often the server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// How long clients may take to read the end of their answers after everything is computed.
const FAREWELL: Duration = Duration::from_secs(5);

/// Threads that take large requests apart, so that they hold up nobody's text.
const READERS: usize = 2;

/// Serves until `stop` is set, and then finishes what runs. `alive` tells whether the engine still works; without it
/// there is nothing to serve.
///
/// # Errors
/// If the runtime or the listener fails.
pub fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    stop: &AtomicBool,
    alive: impl Fn() -> bool,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .build()?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let connections = Arc::new(Semaphore::new(service.limits.connections));
        let (ending, ended) = watch::channel(false);
        let router = router(&service);
        let patience = service.limits.receive;
        let over = || stop.load(Relaxed) || !alive();
        while !over() {
            let Ok(Ok(permit)) = timeout(TICK, Arc::clone(&connections).acquire_owned()).await
            else {
                continue;
            };
            let Ok(accepted) = timeout(TICK, listener.accept()).await else {
                continue;
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors, mostly: those that are open will be closed.
                sleep(TICK).await;
                continue;
            };
            // Pieces are small and must not wait for each other; where that cannot be had they come later.
            let _ = stream.set_nodelay(true);
            let mut ended = ended.clone();
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(patience)
                .serve_connection(
                    TokioIo::new(Patient::new(stream, patience)),
                    TowerToHyperService::new(router.clone()),
                );
            tokio::spawn(async move {
                let mut connection = pin!(connection);
                let mut told = pin!(ended.changed());
                let mut is_ending = false;
                // Whoever was not told that the server ends, because that went away first, has ended too.
                let _ = poll_fn(|context| {
                    if !is_ending && told.as_mut().poll(context).is_ready() {
                        is_ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    connection.as_mut().poll(context)
                })
                .await;
                drop(permit);
            });
        }
        drop(listener);
        service.queue.close();
        let _ = ending.send(true);
        // The engine finishes what it has, which the limit on answers bounds; then clients may read to the end.
        while alive() {
            sleep(TICK).await;
        }
        let all = u32::try_from(service.limits.connections).unwrap_or(u32::MAX);
        let _ = timeout(FAREWELL, connections.acquire_many(all)).await;
        Ok(())
    })
}

/// A connection that fails when its client has read nothing for a time: it would keep its place for ever.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            stalled: None,
        }
    }

    /// Watches over the outcome of a write.
    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_never_reads_is_left() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let error = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = Patient::new(stream, Duration::from_millis(20));
            loop {
                // More than any system buffers, after some of these.
                let bytes = [0; 1 << 16];
                let written =
                    poll_fn(|context| Pin::new(&mut stream).poll_write(context, &bytes)).await;
                if let Err(error) = written {
                    return error;
                }
            }
        });
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
