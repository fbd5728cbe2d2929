//! Stopping on request: SIGINT, SIGTERM and SIGHUP only raise a flag, and whoever waits looks at
//! it, so that a lab is always taken down by the same code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{LabError, io_error};

/// How often a wait looks at the flag.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// A flag that the user's wish to stop raises.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// A flag that SIGINT, SIGTERM and SIGHUP raise from now on, instead of ending the process.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn install() -> Result<Self, LabError> {
        let flag = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag.0))
                .map_err(io_error(format!("catch signal {signal}")))?;
        }
        Ok(flag)
    }

    /// Fails with [`LabError::Interrupted`] once the flag is up.
    ///
    /// # Errors
    /// Only that one.
    pub fn check(&self) -> Result<(), LabError> {
        if self.0.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
    }

    /// Sleeps, but wakes and fails soon after the flag goes up.
    ///
    /// # Errors
    /// [`LabError::Interrupted`].
    pub fn sleep(&self, duration: Duration) -> Result<(), LabError> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(TICK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_flag_ends_a_sleep_at_once() {
        let interrupt = Interrupt::default();
        interrupt.sleep(Duration::from_millis(1)).unwrap();
        interrupt.0.store(true, Ordering::Relaxed);
        let start = Instant::now();
        assert!(matches!(interrupt.sleep(Duration::from_secs(60)), Err(LabError::Interrupted)));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
