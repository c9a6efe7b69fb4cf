//! What nobody asks for: durable opens are closed whose clients did not come back in time, and connections are cut over which TCP does
//! not get a break across.

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
        let work = tokio::task::spawn_blocking(move || {
            server.cut_unheard();
            server.scavenge(Instant::now());
        });
        if let Err(error) = work.await {
            tracing::error!("looking after lost clients failed inside the server: {error}");
        }
    }
}
