//! The Engine's events, as far as they concern where sessions go: that something has changed, not
//! what. Whoever hears it looks for itself.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use crate::{DEFAULT_HOST, DockerError, Options, host::Host, http::Engine, runtime};

/// `{"type":["container","network","service"],"event":[…]}`: what makes, changes or ends a
/// director, a service's backends, or a label. exec and health checks come by the second and are none
/// of it.
const PATH: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%2C%22\
                    service%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%2C%22create%22%2C%22\
                    update%22%2C%22remove%22%2C%22destroy%22%2C%22connect%22%2C%22disconnect%22\
                    %5D%7D";

/// Calls `changed` once when the Engine listens, and then after each of its events, until it ends
/// the connection or `changed` gives false. Blocks; not to be called on a tokio worker.
///
/// # Errors
/// When the Engine cannot be reached or refuses.
pub fn follow_events(
    options: &Options,
    mut changed: impl FnMut() -> bool,
) -> Result<(), DockerError> {
    let host = Host::parse(options.host.as_deref().unwrap_or(DEFAULT_HOST), options.tls)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let engine = Engine::new(host, Instant::now() + options.timeout);
        let opened = engine.open(PATH).await;
        let mut body = match opened {
            Ok(body) => body,
            Err(error) => return Err(error.whole(engine.host.clone(), options.timeout)),
        };
        // Nothing was heard until now.
        if !changed() {
            return Ok(());
        }
        while let Some(Ok(frame)) = body.frame().await {
            if !frame.is_data() {
                continue;
            }
            // Events come in crowds: what follows at once is one with it, but not for ever.
            let until = Instant::now() + LONGEST;
            while Instant::now() < until
                && let Ok(Some(Ok(_))) = timeout(CROWD, body.frame()).await
            {}
            if !changed() {
                break;
            }
        }
        Ok(())
    });
    runtime.shutdown_background();
    result
}

/// Events nearer to each other than this are one.
const CROWD: Duration = Duration::from_millis(50);
/// And a crowd ends after this.
const LONGEST: Duration = Duration::from_millis(500);
