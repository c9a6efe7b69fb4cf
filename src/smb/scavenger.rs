//! Closes durable opens whose clients did not come back in time: the one thing that nobody asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::server::Server;

/// How often they are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Looks until `shutdown` becomes true; off the async threads, since a close may have much to write.
pub(super) async fn run(server: Arc<Server>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        let server = Arc::clone(&server);
        if let Err(error) = tokio::task::spawn_blocking(move || server.scavenge(Instant::now())).await {
            tracing::error!("closing a durable open failed inside the server: {error}");
        }
    }
}
