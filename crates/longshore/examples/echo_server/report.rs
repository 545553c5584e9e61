//! One line a second.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{limits, serve::Server};

/// `begun` is the memory of the process before the first connection.
pub(crate) async fn every_second(server: Arc<Server>, begun: Option<u64>) {
    let second = Duration::from_secs(1);
    let (mut messages, mut bytes) = (0, 0);
    let mut next = Instant::now();
    loop {
        next += second;
        if server.port.sleep_until(next).await.is_err() || server.roll.is_closing() {
            return;
        }
        let now = (
            server.messages.load(Relaxed),
            server.bytes.load(Relaxed),
            server.connections(),
        );
        let (moved, connections) = (now.1 - bytes, now.2);
        eprintln!(
            "report: {connections} connections, {} messages, {:.1} MiB/s, {}",
            now.0 - messages,
            moved as f64 / f64::from(1 << 20),
            growth(begun, connections),
        );
        (messages, bytes) = (now.0, now.1);
    }
}

fn growth(begun: Option<u64>, connections: usize) -> String {
    match (begun, limits::memory()) {
        (Some(begun), Some(now)) if connections > 0 => {
            let each = now.saturating_sub(begun) / connections as u64;
            format!("memory per connection: {each} bytes")
        }
        (Some(_), Some(_)) => "memory per connection: none is open".into(),
        _ => "memory per connection: not measured".into(),
    }
}
