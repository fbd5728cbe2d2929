//! `keepline apply direct` after its first plan: the programs follow the directors' tables.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use keepline_core::plan::{self, DirectService};
use keepline_node::{Balance, Select};

use super::apply::Seen;
use super::consent;
use crate::fault::fault;
use crate::signals::{self, SIGINT, SIGTERM};

/// Follows until a signal ends it, or the programs are taken off. `seen`: what they answer for was
/// planned from that.
pub(super) fn follow(
    select: Select,
    seen: Box<Seen>,
    mut known: Vec<DirectService>,
) -> anyhow::Result<()> {
    let stop = signals::stop_flag(&[SIGINT, SIGTERM])?;
    say!("keepline: following the backends, Ctrl-C ends that");
    let mut tables = Tables::of(select, seen);
    while !stop.load(Ordering::Relaxed) {
        match once(&known, &mut tables) {
            Ok(Followed::Changed(now)) => {
                say!("keepline: backends have changed");
                known = now;
            }
            Ok(Followed::Others(now)) => known = now,
            Ok(Followed::Nothing) => {}
            Ok(Followed::TakenOff) => {
                say!("keepline: the programs were taken off: no longer following");
                return Ok(());
            }
            Err(error) => say!("keepline: warning: {error:#}; trying again"),
        }
        thread::sleep(Tables::PAUSE);
    }
    say!("keepline: no longer following; `keepline undo direct` takes the programs off");
    Ok(())
}

/// The last look, and what the directors have balanced since then. A look takes its time where there
/// are many sessions: the next one goes on beside, and the tables are compared meanwhile.
struct Tables {
    /// By the names that were given, and from the first look on by what they meant.
    select: Select,
    /// Absent where it is known to be out of date.
    seen: Option<Box<Seen>>,
    looked: Instant,
    next: Option<JoinHandle<anyhow::Result<Seen>>>,
    balance: Balance,
}

impl Tables {
    /// Between two comparisons: a task that goes is noticed in time, and what hangs on it closed.
    const PAUSE: Duration = Duration::from_millis(250);
    /// Clients and directors that have come are in no table: they are looked for so often.
    const LOOK: Duration = Duration::from_secs(2);

    fn of(select: Select, seen: Box<Seen>) -> Self {
        let (looked, balance) = (Instant::now(), Balance::default());
        let mut tables = Self { select, seen: None, looked, next: None, balance };
        tables.take(seen);
        tables
    }

    fn take(&mut self, seen: Box<Seen>) {
        self.balance.follow(&seen.snapshot);
        self.select = seen.snapshot.meant(&self.select);
        self.looked = Instant::now();
        self.seen = Some(seen);
    }

    /// What is seen now, if that may be something else.
    fn news(&mut self) -> anyhow::Result<Option<&Seen>> {
        let mut looked = false;
        if let Some(next) = self.next.take_if(|it| it.is_finished()) {
            self.looked = Instant::now();
            // What was seen before is followed on where a look fails.
            let seen = next.join().map_err(|_| anyhow!("the look has failed"))??;
            self.take(Box::new(seen));
            looked = true;
        }
        let due = self.seen.is_none() || self.looked.elapsed() >= Self::LOOK;
        if due && self.next.is_none() {
            let select = self.select.clone();
            self.next = Some(thread::spawn(move || Seen::take(&select)));
        }
        let changed = self.balance.has_changed();
        let Some(seen) = self.seen.as_mut().filter(|_| looked || changed) else {
            return Ok(None);
        };
        // Also what has changed while it was looked.
        if !self.balance.bring_up_to_date(&mut seen.snapshot) {
            self.seen = None;
        }
        Ok(self.seen.as_deref())
    }
}

/// What became of the programs.
enum Followed {
    /// They answer as before.
    Nothing,
    /// They were brought up to date: for these.
    Changed(Vec<DirectService>),
    /// Another Keepline has changed what they answer for, to this.
    Others(Vec<DirectService>),
    /// There are none any more.
    TakenOff,
}

/// Brings the programs up to date where the directors' tables have changed.
fn once(known: &[DirectService], tables: &mut Tables) -> anyhow::Result<Followed> {
    let Some(seen) = tables.news()? else { return Ok(Followed::Nothing) };
    let followed = turn(known, seen);
    if followed.is_err() {
        // Whatever it was that was not as it was seen.
        tables.seen = None;
    }
    followed
}

/// Brings the programs up to date with what is seen.
fn turn(known: &[DirectService], seen: &Seen) -> anyhow::Result<Followed> {
    if let Some(missed) = seen.snapshot.incomplete.first() {
        return Err(fault(
            format!("not seen: {}: {}", missed.what, missed.why),
            "it is tried again",
        ));
    }
    let wished = plan::follow(&seen.snapshot, &seen.judgement, known);
    if wished.changes.is_empty() {
        return Ok(Followed::Nothing);
    }
    let mut exclusive = consent::exclusive()?;
    match keepline_node::answered_directly()? {
        None => return Ok(Followed::TakenOff),
        Some(now) if now != known => return Ok(Followed::Others(now)),
        Some(_) => {}
    }
    let report = keepline_node::act(&mut exclusive, &wished, &AtomicBool::new(false))?;
    if let Some(error) = report.steps.into_iter().find_map(|step| step.result.err()) {
        return Err(fault(error.to_string(), "`keepline undo direct` takes the programs off"));
    }
    Ok(keepline_node::answered_directly()?.map_or(Followed::TakenOff, Followed::Changed))
}
