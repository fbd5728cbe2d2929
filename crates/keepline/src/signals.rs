//! Signals that ask to stop: what is begun is brought to an end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
pub use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// A flag that the first of `signals` sets. A second one ends the program at once, as if nobody had
/// caught it.
///
/// # Errors
/// When they cannot be caught.
pub fn stop_flag(signals: &[i32]) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for &signal in signals {
        // In this order: the first signal finds the flag down.
        flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .with_context(|| format!("catch signal {signal}"))?;
    }
    Ok(stop)
}
