//! Real time, and Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keepline_migrate::{Clock, Interrupted};

use crate::signals::{self, SIGHUP, SIGINT, SIGTERM};

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
        let stop = signals::stop_flag(&[SIGINT, SIGTERM, SIGHUP])?;
        Ok(Self { stop, ..Self::default() })
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
