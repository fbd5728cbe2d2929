//! What the guard knows of itself, as others may ask.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What the control socket tells (`keepline.guard/v1`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// `keepline.guard/v1`.
    pub schema: String,
    /// The guard's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Since when it runs.
    pub since: Option<jiff::Timestamp>,
    /// When it last looked.
    pub last_look: Option<jiff::Timestamp>,
    /// How long that and what followed took.
    pub took_seconds: f64,
    /// Sessions, by verdict.
    pub sessions: Sessions,
    /// Entries it has renewed since it runs.
    pub held: u64,
    /// Sessions it has brought back since it runs.
    pub healed: u64,
    /// What could not be done or understood in the last pass, one sentence each.
    pub troubles: Vec<String>,
}

/// Sessions by verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// safe
    pub safe: usize,
    /// at-risk
    pub at_risk: usize,
    /// orphaned
    pub orphaned: usize,
    /// untracked
    pub untracked: usize,
    /// unknown
    pub unknown: usize,
}

/// Name and version of the form of [`Told`].
pub const SCHEMA: &str = "keepline.guard/v1";

/// Shared with those who ask.
#[derive(Debug)]
pub(crate) struct State {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    told: Told,
    looked: Option<Instant>,
    next_within: Duration,
}

/// A pass that is late by this is none that is only slow.
const LATE: Duration = Duration::from_secs(30);

impl State {
    pub(crate) fn new() -> Self {
        let told = Told {
            schema: SCHEMA.to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: Some(jiff::Timestamp::now()),
            ..Told::default()
        };
        Self { inner: Mutex::new(Inner { told, looked: None, next_within: LATE }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Whoever panicked has only left an older state.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn told(&self) -> Told {
        self.lock().told.clone()
    }

    /// A pass has ended; the next comes within `next`.
    pub(crate) fn passed(&self, next: Duration, tell: impl FnOnce(&mut Told)) {
        let mut inner = self.lock();
        tell(&mut inner.told);
        inner.looked = Some(Instant::now());
        inner.next_within = next;
    }

    /// Why the guard is not well; nothing where it is.
    pub(crate) fn ails(&self) -> Option<String> {
        let inner = self.lock();
        let Some(looked) = inner.looked else { return Some("no look has ended yet".to_owned()) };
        let late = looked.elapsed().checked_sub(inner.next_within + LATE)?;
        Some(format!(
            "the last look ended {} ago: late by {}",
            human(looked.elapsed()),
            human(late)
        ))
    }
}

fn human(duration: Duration) -> String {
    keepline_core::duration::human(duration)
}
