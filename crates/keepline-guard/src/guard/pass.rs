//! One pass: what holds is found out, the machine is looked at, and what follows is done.

use std::{
    collections::BTreeSet,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use keepline_core::{
    Judgement, Snapshot, Verdict, judge,
    plan::{self, Action, Change, InForce, What, journal::Standing},
    policy::{Policies, Strategy},
    snapshot::Topology,
};
use keepline_node::{
    Balance, NodeError, Obstacle, Owners, Report,
    run::{self, Exclusive, Holding},
};
use tracing::{info, warn};

use super::{AFTER_FAILURE, Guard, Passed};
use crate::state::{Sessions, Told};

/// So often it is looked while something settles.
const WHILE_SETTLING: Duration = Duration::from_millis(500);
/// No more than this part of one processor goes into looking, except for what would be lost
/// meanwhile, and while something settles.
const SHARE: u32 = 20;
/// A director that is made is under policy within two seconds, also where a look takes its time.
const PROMISED: Duration = Duration::from_millis(1500);
/// Where a session went is known for so long after it was last seen.
const MEMORY: Duration = Duration::from_secs(600);
/// So often that is written down, for the next guard.
const WRITTEN: Duration = Duration::from_secs(60);

/// What a pass has left to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// What was refused is due again then.
    Refused(Duration),
    /// What holds now is planned from what is there now.
    ToPlan,
}

impl Guard {
    /// One pass: observe, judge, plan, act.
    pub(super) fn pass(&mut self) -> Result<Passed, NodeError> {
        let begun = Instant::now();
        let mut troubles = BTreeSet::new();
        let topology = self.engine.topology();
        troubles.extend(self.engine.silent.clone());
        let (policies, mut invalid) =
            Policies::of(&self.config.rules, topology.as_ref(), &mut self.remembered);
        invalid.extend(self.invalid_in_file.iter().cloned());
        troubles.extend(invalid.iter().map(ToString::to_string));
        self.metrics.invalid.set(i64::try_from(invalid.len()).unwrap_or(i64::MAX));
        let by_keepalive = policies.any(Strategy::Keepalive);
        let owners = if by_keepalive { Owners::MostUrgent(0) } else { Owners::Nobody };
        let by_direct = policies.any(Strategy::Direct) || self.answers;
        self.followed = by_direct.then(|| self.followed.take().unwrap_or_default());
        self.followed.iter_mut().for_each(Balance::begin);
        let mut snapshot = self.look(owners, topology, &mut troubles)?;
        self.followed.iter_mut().for_each(|balance| balance.follow(&snapshot));
        self.hold(&policies, &mut snapshot, &mut troubles);
        let judgement = judge(&snapshot, &keepline_core::Options::default());
        self.metrics.scan.observe(begun.elapsed().as_secs_f64());
        self.saw(&snapshot, &judgement);
        let missed =
            snapshot.incomplete.iter().map(|it| format!("not seen: {}: {}", it.what, it.why));
        troubles.extend(missed);
        let mut next = plan::hold_pause(&snapshot);
        let sessions = sessions(&judgement);
        let acted = self.act(&policies, &mut snapshot, judgement, next, &mut troubles);
        let left = acted.unwrap_or_else(|error| {
            troubles.insert(error);
            Left::Refused(AFTER_FAILURE)
        });
        self.write_down(&mut troubles);
        let took = begun.elapsed();
        self.took = took;
        if let Some(look_every) = self.config.look_every {
            next = next.min(look_every);
        }
        let settling = self.settling.is_some_and(|until| until > begun);
        let again = match left {
            Left::Nothing => None,
            Left::Refused(again) => Some(again),
            Left::ToPlan => Some(Duration::ZERO),
        };
        next = due(next, again, settling, took);
        let result = match left {
            Left::Refused(_) => Passed::FAILED,
            Left::ToPlan => Passed::BEGUN,
            Left::Nothing if snapshot.incomplete.is_empty() => Passed::OK,
            Left::Nothing => Passed::INCOMPLETE,
        };
        self.metrics.passed(result);
        self.metrics.reconcile.observe(took.as_secs_f64());
        let now = jiff::Timestamp::now();
        self.metrics.last.set(now.as_duration().as_secs_f64());
        self.told(&troubles);
        let (held, healed) = (self.metrics.held.get(), self.metrics.healed.get());
        self.state.passed(next, |told| {
            *told = Told {
                last_look: Some(now),
                took_seconds: took.as_secs_f64(),
                sessions,
                held,
                healed,
                troubles: troubles.into_iter().collect(),
                ..told.clone()
            };
        });
        Ok(Passed { result, next })
    }

    /// Looks at what was selected. What has gone since, such as a container or a service, its last task
    /// with it, keeps nobody from looking after the others.
    fn look(
        &mut self,
        owners: Owners,
        topology: Option<Topology>,
        troubles: &mut BTreeSet<String>,
    ) -> Result<Snapshot, NodeError> {
        let again = self.meant.clone().map(|meant| (meant, topology.clone()));
        match (self.observer.observe(&self.select, owners, topology), again) {
            (Ok(snapshot), _) => {
                let everything = self.select.is_everything();
                self.meant = (!everything).then(|| snapshot.meant(&self.select));
                Ok(snapshot)
            }
            (Err(error), Some((meant, topology))) => {
                let snapshot = self.observer.observe(&meant, owners, topology)?;
                troubles.insert(error.brief());
                Ok(snapshot)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Announces what is held, so that a check tells it.
    fn hold(
        &mut self,
        policies: &Policies,
        snapshot: &mut Snapshot,
        troubles: &mut BTreeSet<String>,
    ) {
        if !policies.all().any(|it| it.strategy.value.holds()) {
            self.holding = None;
            return;
        }
        let mut scope = policies.held();
        if !self.select.is_everything() {
            scope.within = Some(Box::new(snapshot.scope()));
        }
        snapshot.held.push(scope.clone());
        if self.holding.as_ref().is_some_and(|(known, _)| *known == scope) {
            return;
        }
        // The one before ends first: both have the same name.
        self.holding = None;
        match Holding::announce(scope.clone()) {
            Ok(holding) => self.holding = Some((scope, holding)),
            Err(error) => {
                troubles.insert(format!("held, but not announced: {error}"));
            }
        }
    }

    fn saw(&mut self, snapshot: &Snapshot, judgement: &Judgement) {
        self.metrics.saw(snapshot, judgement);
        let orphaned = judgement.sessions.iter().filter(|it| it.verdict == Verdict::Orphaned);
        let orphans: BTreeSet<(u64, u64)> = orphaned
            .map(|session| {
                let namespace = &snapshot.namespaces[session.socket.namespace];
                (namespace.inode, namespace.sockets[session.socket.socket].cookie)
            })
            .collect();
        let new = orphans.difference(&self.orphans).count();
        if new > 0 {
            warn!(sessions = new, "found forgotten");
            self.metrics.orphaned.inc_by(new as u64);
        }
        self.orphans = orphans;
        let now = self.started.elapsed().as_secs();
        self.memory.learn(snapshot, now);
        self.memory.forget(now.saturating_sub(MEMORY.as_secs()));
    }

    /// Plans and acts.
    fn act(
        &mut self,
        policies: &Policies,
        snapshot: &mut Snapshot,
        judgement: Judgement,
        pause: Duration,
        troubles: &mut BTreeSet<String>,
    ) -> Result<Left, String> {
        let now = Instant::now();
        self.backoff.forget(now);
        let mut in_force = in_force(policies)?;
        self.answers = in_force.direct.is_some();
        for it in &in_force.standing {
            if let Some(why) = self.backoff.waits(&it.change, now).filter(|_| it.by.guard) {
                in_force.stuck.insert((it.id, it.step));
                troubles.insert(why.to_owned());
            }
        }
        // What would run out before the pass after the next has ended.
        let due_within = (pause + self.took) * 2 + Duration::from_secs(1);
        let pass =
            plan::reconcile(snapshot, judgement, policies, &in_force, &self.memory, due_within);
        troubles.extend(pass.refused.iter().map(|it| format!("{}: {}", it.what, it.why)));
        troubles.extend(pass.overruled.iter().map(|change| {
            let (object, _) = change.what.describe();
            format!("{}: {object}: set by hand, left so until that is undone", change.place.name)
        }));
        for mut plan in pass.plans {
            plan.changes.retain(|change| {
                let why = self.backoff.waits(change, now);
                troubles.extend(why.map(str::to_owned));
                why.is_none()
            });
            if plan.changes.is_empty() {
                continue;
            }
            let mut exclusive = Exclusive::for_guard().map_err(|error| error.to_string())?;
            let report = keepline_node::act(&mut exclusive, &plan, &AtomicBool::new(false))
                .map_err(|error| error.to_string())?;
            self.came(plan.action, report, troubles);
        }
        if !pass.spent.is_empty() {
            let mut exclusive = Exclusive::for_guard().map_err(|error| error.to_string())?;
            for (id, step) in pass.spent {
                exclusive.give_up(id, step).map_err(|error| error.to_string())?;
            }
        }
        if !pass.undo.is_empty() {
            return self.take_back(&pass.undo, troubles);
        }
        let left = |again: Instant| Left::Refused(again.saturating_duration_since(Instant::now()));
        Ok(self.backoff.next().map_or(Left::Nothing, left))
    }

    fn take_back(
        &mut self,
        unwanted: &[Standing],
        troubles: &mut BTreeSet<String>,
    ) -> Result<Left, String> {
        let undos = plan::undo(unwanted);
        let mut exclusive = Exclusive::for_guard().map_err(|error| error.to_string())?;
        let report = keepline_node::undo(&mut exclusive, &undos, &AtomicBool::new(false))
            .map_err(|error| error.to_string())?;
        for (step, undo) in report.steps.iter().zip(&undos) {
            let (object, change) = step.change.what.describe();
            let name = &step.change.place.name;
            match &step.result {
                Ok(_) => {
                    let was = unwanted.iter().find(|it| undo.of == Some((it.id, it.step)));
                    let action = was.map(|it| it.action);
                    action.into_iter().for_each(|it| self.metrics.acted(it, "undone", 1));
                    self.backoff.went(&step.change);
                    info!(director = name, object, change, "no longer wanted: taken back");
                }
                // Whoever has set it otherwise since has decided: it is not the guard's any more.
                Err(error @ Obstacle::Drifted { .. }) => {
                    if let Some((id, step)) = undo.of {
                        exclusive.give_up(id, step).map_err(|error| error.to_string())?;
                    }
                    warn!(director = name, object, %error, "no longer wanted, and left");
                }
                Err(error) => {
                    let why = format!("{name}: {object}: no longer wanted: {error}");
                    troubles.insert(why.clone());
                    if self.backoff.failed(&step.change, why, Instant::now()) {
                        warn!(director = name, object, %error, "not taken back");
                    }
                }
            }
        }
        Ok(Left::ToPlan)
    }

    fn came(&mut self, action: Action, report: Report, troubles: &mut BTreeSet<String>) {
        let (mut done, mut failed) = (0, 0);
        let now = Instant::now();
        for step in report.steps {
            let (object, change) = step.change.what.describe();
            let name = &step.change.place.name;
            match &step.result {
                Ok(_) => {
                    done += 1;
                    self.backoff.went(&step.change);
                    info!(strategy = %action, director = name, object, change, "done");
                    self.count(action, &step.change);
                }
                // It took what was to be changed with it.
                Err(Obstacle::Gone) => {}
                Err(error) => {
                    failed += 1;
                    let why = format!("{name}: {object}: {error}");
                    troubles.insert(why.clone());
                    if self.backoff.failed(&step.change, why, now) {
                        warn!(strategy = %action, director = name, object, %error, "not done");
                    }
                }
            }
        }
        self.metrics.acted(action, "done", done);
        self.metrics.acted(action, "failed", failed);
    }

    fn count(&self, action: Action, change: &Change) {
        let What::Entries { entries, .. } = &change.what else { return };
        match action {
            Action::Heal => self.metrics.healed.inc_by(entries.len() as u64),
            _ => self.metrics.held.inc_by(entries.len() as u64),
        };
    }

    /// Where sessions went, for the next guard and for `keepline heal`.
    fn write_down(&mut self, troubles: &mut BTreeSet<String>) {
        let now = Instant::now();
        if self.written.is_some_and(|at| now - at < WRITTEN) || self.memory.is_empty() {
            return;
        }
        self.written = Some(now);
        let written = Exclusive::for_guard()
            .and_then(|exclusive| exclusive.remember_rows(self.memory.rows()));
        if let Err(error) = written {
            troubles.insert(error.to_string());
        }
    }
}

/// When the next look is due: in time for what is held, whatever that costs; sooner while something
/// settles, or when something is to be tried again then.
fn due(held: Duration, again: Option<Duration>, settling: bool, took: Duration) -> Duration {
    let least = took * SHARE;
    // Half a processor at the most, for as long as it settles.
    let settling = settling.then(|| WHILE_SETTLING.max(least.min(PROMISED.max(took))));
    let again = again.map(|again| again.max(least));
    [again, settling].into_iter().flatten().fold(held, Duration::min)
}

/// What is in force, as far as policies ask for it.
fn in_force(policies: &Policies) -> Result<InForce, String> {
    let standing = run::standing().map_err(|error| error.to_string())?;
    let mut in_force = InForce { standing, ..InForce::default() };
    if policies.any(Strategy::Keepalive) {
        in_force.rules = keepline_node::keepalive_rules().map_err(|error| error.to_string())?;
    }
    // What was wanted of a service that has lost its last task is known by that alone.
    let stands = |it: &Standing| it.by.guard && it.action == Action::Direct;
    if policies.any(Strategy::Direct) || in_force.standing.iter().any(stands) {
        in_force.direct = keepline_node::answered_directly().map_err(|error| error.to_string())?;
    }
    Ok(in_force)
}

fn sessions(judgement: &Judgement) -> Sessions {
    let summary = judgement.summary;
    Sessions {
        safe: summary.safe,
        at_risk: summary.at_risk,
        orphaned: summary.orphaned,
        untracked: summary.untracked,
        unknown: summary.unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_in_time_and_no_sooner_than_it_costs() {
        let ms = Duration::from_millis;
        let held = ms(20_000);
        for (again, settling, took, expected) in [
            (None, false, ms(100), held),
            (None, true, ms(5), ms(500)),
            (None, true, ms(50), ms(1000)),
            // A twentieth of a processor would be too late for what is promised.
            (None, true, ms(300), ms(1500)),
            (None, true, ms(4000), ms(4000)),
            (Some(ms(2000)), false, ms(5), ms(2000)),
            (Some(Duration::ZERO), false, ms(300), ms(6000)),
            (Some(Duration::ZERO), true, ms(300), ms(1500)),
        ] {
            assert_eq!(due(held, again, settling, took), expected, "{again:?} {settling} {took:?}");
        }
        assert_eq!(due(ms(4000), None, true, ms(5000)), ms(4000), "what is held does not wait");
    }
}
