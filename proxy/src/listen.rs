//! The listener: takes connections in, within bounds.
//!
//! Owns the accept loop, its bounds and its end. Touches the listening socket. Invariants: what is over a
//! bound is closed at once and counted; after the end nothing is accepted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sallyport_core::sessions::SessionId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::doorway::Doorway;
use crate::trust;
use crate::upstream::tune;

/// Connections at most, whatever their state.
const CONNECTIONS: usize = 2000;
/// Connections of one address that have no session yet, at most.
const HANDSHAKES: u32 = 500;
/// When accepting itself fails (no file descriptor left).
const PAUSE: Duration = Duration::from_millis(100);
/// For a session that is cut to tell so and to stop what it runs; whoever takes no bytes is not waited for longer.
const PARTING: Duration = Duration::from_secs(12);

tokio::task_local! {
    /// The place that a connection takes among the handshakes of its address.
    static HANDSHAKE: RefCell<Option<Handshake>>;
}

/// Gives back the place of the current connection among the handshakes: its session is open. The core tells
/// that to the meter, in the connection's own task.
pub(crate) fn handshake_is_over() {
    let _outside_a_connection = HANDSHAKE.try_with(|place| drop(place.take()));
}

/// The bounds, and who is within them.
pub(crate) struct Room {
    connections: Arc<Semaphore>,
    capacity: usize,
    handshakes: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

struct Handshake {
    of: IpAddr,
    handshakes: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

impl Room {
    /// Room for as many connections as the process may have open.
    pub(crate) fn new() -> Self {
        let capacity = capacity(&std::fs::read_to_string("/proc/self/limits").unwrap_or_default());
        if capacity < CONNECTIONS {
            tracing::warn!(capacity, "fewer connections than {CONNECTIONS}: raise the limit of open files");
        }
        Self { connections: Arc::new(Semaphore::new(capacity)), capacity, handshakes: Arc::default() }
    }

    /// Waits until every connection has ended; the caller sets the deadline.
    pub(crate) async fn emptied(&self) {
        let all = u32::try_from(self.capacity).unwrap_or(u32::MAX);
        let _closed = self.connections.acquire_many(all).await;
    }

    /// How many connections there are.
    pub(crate) fn taken(&self) -> usize {
        self.capacity.saturating_sub(self.connections.available_permits())
    }

    fn enter(&self, from: IpAddr) -> Result<(OwnedSemaphorePermit, Handshake), &'static str> {
        let place = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| "connections")?;
        let of = origin(from);
        let mut handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = handshakes.entry(of).or_default();
        if *count >= HANDSHAKES {
            return Err("handshakes");
        }
        *count += 1;
        Ok((place, Handshake { of, handshakes: Arc::clone(&self.handshakes) }))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = handshakes.get_mut(&self.of) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                handshakes.remove(&self.of);
            }
        }
    }
}

/// Accepts until `stop` turns true.
pub(crate) async fn accept(
    listener: TcpListener,
    doorway: Arc<Doorway>,
    room: Arc<Room>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => admit(&doorway, &room, stream, peer, stop.clone()),
            Err(error) => {
                doorway.metrics.shed("accept");
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn admit(doorway: &Arc<Doorway>, room: &Room, stream: TcpStream, peer: SocketAddr, stop: watch::Receiver<bool>) {
    let Some(door) = doorway.door() else {
        doorway.metrics.shed("no-bundle");
        return;
    };
    let (place, handshake) = match room.enter(peer.ip()) {
        Ok(places) => places,
        Err(cause) => {
            doorway.metrics.shed(cause);
            return;
        }
    };
    // A peer that is gone already has no socket to tune.
    if tune(&stream).is_err() {
        return;
    }
    let (renewals, tls) = (doorway.tls.renewals(), doorway.tls.current());
    let id = SessionId::from_random(rand::random());
    let untrusted = untrusted(Arc::clone(doorway), id, renewals);
    tokio::spawn(trust::connection(HANDSHAKE.scope(RefCell::new(Some(handshake)), async move {
        tokio::select! {
            () = door.serve(id, stream, peer, tls) => {}
            () = stopped_in_handshake(stop) => {}
            () = untrusted => {}
        }
        drop(place);
    })));
}

/// Completes when the root that let this connection in is out of trust, and its session has had time to say so.
async fn untrusted(doorway: Arc<Doorway>, id: SessionId, renewals: watch::Receiver<u64>) {
    trust::lost(Arc::clone(&doorway.tls), renewals).await;
    tracing::warn!(session = %id, "connection cut: the authority of its certificate is out of trust");
    if HANDSHAKE.with(|place| place.borrow().is_none()) {
        doorway.sessions.distrust(id);
        tokio::time::sleep(PARTING).await;
    }
}

/// Completes at the end of the process if the current connection has no session by then: sessions are asked
/// to end, whoever has none is not waited for.
async fn stopped_in_handshake(mut stop: watch::Receiver<bool>) {
    let _gone_is_stopped_too = stop.wait_for(|stop| *stop).await.map(drop);
    if !HANDSHAKE.with(|place| place.borrow().is_some()) {
        std::future::pending::<()>().await;
    }
}

/// Whom a connection counts for: an IPv4 address, or the network that one subscriber of IPv6 has.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// Each connection has two sockets; some descriptors are left for everything else.
fn capacity(limits: &str) -> usize {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    let soft = soft.and_then(|soft| soft.parse::<usize>().ok()).unwrap_or(usize::MAX);
    (soft.saturating_sub(100) / 2).clamp(1, CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_descriptors_mean_fewer_connections() {
        let limits = |soft| format!("Limit Soft Limit\nMax open files            {soft}   524288   files\n");
        assert_eq!(capacity(&limits("1024")), 462);
        assert_eq!(capacity(&limits("1048576")), CONNECTIONS);
        assert_eq!(capacity(&limits("unlimited")), CONNECTIONS);
    }

    #[tokio::test]
    async fn an_address_cannot_take_all_places_and_gets_them_back() {
        let room = Room { connections: Arc::new(Semaphore::new(2000)), capacity: 2000, handshakes: Arc::default() };
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let mut taken: Vec<_> = (0..HANDSHAKES).map(|_| room.enter(one).ok().unwrap()).collect();
        assert_eq!(room.enter(one).err(), Some("handshakes"));
        assert!(room.enter("192.0.2.2".parse().unwrap()).is_ok());
        // The session is open: its connection stays, its handshake is over.
        let (place, handshake) = taken.pop().unwrap();
        HANDSHAKE.scope(RefCell::new(Some(handshake)), async { handshake_is_over() }).await;
        assert!(room.enter(one).is_ok());
        drop((place, taken));
        assert!(room.handshakes.lock().unwrap().is_empty());
        room.emptied().await;
    }

    #[test]
    fn an_ipv6_subscriber_counts_once() {
        let of = |address: &str| origin(address.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
