//! A loopback port of the machine that leads to an address inside a cluster.
//! One thread enters the cluster's network; its listener stays on the machine's, because a socket belongs where it was made.
//! It copies bytes and changes none; it ends when dropped, and with the process in any case.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::ports::Port;

/// A running forward. Dropping it closes the port and every connection through it.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
    _port: Option<Port>,
}

impl Forward {
    /// Where to connect, on the machine.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From this loopback port (which may be held by the caller, or 0 for any) to the target inside.
    pub(super) fn start(init: u32, local: u16, target: SocketAddr, port: Option<Port>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local))
            .with_context(|| format!("cannot listen on 127.0.0.1:{local}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let network = File::open(format!("/proc/{init}/ns/net")).context("the cluster is gone")?;
        let (stop, stopped) = oneshot::channel();
        let (report, entered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Only this thread changes its network; the runtime is made after, so all its sockets are made inside.
            let runtime = setns(&network, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from);
            let runtime = runtime.and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match runtime {
                Ok(runtime) => {
                    let _ = report.send(Ok(()));
                    runtime.block_on(async {
                        tokio::select! {
                            result = serve(listener, target) => { if let Err(error) = result { tracing::warn!(%error, "forward ended"); } }
                            _ = stopped => {}
                        }
                    });
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            }
        });
        entered.recv()?.context("cannot enter the cluster's network: this needs root")?;
        Ok(Self { address, _stop: stop, _port: port })
    }
}

async fn serve(listener: TcpListener, target: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut outside, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A target that refuses shows as a closed connection, which is all TCP can say from here.
            if let Ok(mut inside) = TcpStream::connect(target).await {
                let _ = outside.set_nodelay(true);
                let _ = inside.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}
