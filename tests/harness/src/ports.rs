//! Ports that nobody else takes between the choice and the use.
//! Each is held by a lock on a file of its number under the run root, which the kernel releases however the holder ends.
//! They lie below the range from which the kernel takes the ports of outgoing connections.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::Range;

use anyhow::{Context, Result, bail};

use crate::run_dir::run_root;

const RANGE: Range<u16> = 20_000..30_000;

/// A TCP port on loopback, held until dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// A port that nothing listens on and that no other user of this harness holds.
pub fn free_port() -> Result<Port> {
    let locks = run_root().join("ports");
    fs::create_dir_all(&locks).with_context(|| format!("cannot create {}", locks.display()))?;
    // Start somewhere else than other processes do: fewer locks to try.
    let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos());
    let offset = u16::try_from((nanos / 1000) % u32::from(RANGE.end - RANGE.start))?;
    for number in (RANGE.start + offset..RANGE.end).chain(RANGE.start..RANGE.start + offset) {
        let lock = File::create(locks.join(number.to_string()))?;
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
            return Ok(Port { number, _lock: lock });
        }
    }
    bail!("no free port between {} and {}", RANGE.start, RANGE.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let held: Vec<Port> = (0..50).map(|_| free_port().unwrap()).collect();
        let numbers: std::collections::BTreeSet<u16> = held.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), held.len());
    }
}
