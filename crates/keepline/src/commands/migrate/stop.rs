//! Real time, and Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use keepline_migrate::{Clock, Interrupted};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The clock of a real run.
#[derive(Debug)]
pub struct Wall {
    begun: Instant,
    stop: Arc<AtomicBool>,
}

impl Default for Wall {
    fn default() -> Self {
        Self { begun: Instant::now(), stop: Arc::default() }
    }
}

impl Wall {
    /// A clock that is stopped by SIGINT, SIGTERM and SIGHUP from now on; a second one ends the
    /// program.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn until_told() -> anyhow::Result<Self> {
        let wall = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag down.
            flag::register_conditional_default(signal, Arc::clone(&wall.stop))
                .and_then(|_| flag::register(signal, Arc::clone(&wall.stop)))
                .with_context(|| format!("catch signal {signal}"))?;
        }
        Ok(wall)
    }
}

impl Clock for Wall {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn sleep(&mut self, duration: Duration) -> Result<(), Interrupted> {
        /// How often the flag is looked at.
        const TICK: Duration = Duration::from_millis(100);
        let end = Instant::now() + duration;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Interrupted);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(TICK));
        }
    }
}
