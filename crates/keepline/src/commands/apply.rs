//! `keepline apply`, and the remedies `heal`, `touch`, `abort`: look, judge, plan, show, act.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keepline_core::plan::{self, Action, HoldWish, KeepaliveWish, Memory, Plan, TimeoutWish, What};
use keepline_core::report::counted;
use keepline_core::snapshot::Topology;
use keepline_core::{Judgement, Options, Snapshot, judge};
use keepline_node::run::{self, Exclusive, Holding};
use keepline_node::{Observer, Owners, Select};

use super::consent::{self, Decision, IN_PART};
use super::follow;
use crate::args::act::{
    ApplyArgs, ConsentArgs, DirectArgs, HealArgs, HoldArgs, RemedyArgs, Strategy, TimeoutArgs,
};
use crate::fault::fault;
use crate::signals::{self, SIGINT, SIGTERM};
use crate::{output, select};

/// How often a wait looks for a signal.
const TICK: Duration = Duration::from_millis(100);
/// Consent that is older than this is compared with what is there by then.
const STALE: Duration = Duration::from_secs(5);

/// `keepline apply STRATEGY`
///
/// # Errors
/// When it could not run.
pub fn apply(args: ApplyArgs) -> anyhow::Result<u8> {
    match args.strategy {
        Strategy::Hold(args) => hold(&args),
        Strategy::Timeout(args) => timeout(&args),
        Strategy::Direct(args) => direct(&args),
        Strategy::Rehash(args) => carry_out(&args.select.to_select(), args.consent, |seen| {
            Ok(plan::rehash(&seen.snapshot, &seen.judgement, args.carry))
        }),
        Strategy::Keepalive(args) => {
            let wish = KeepaliveWish {
                idle: args.idle,
                interval: args.interval,
                probes: args.probes,
                enforce: !args.no_enforce,
            };
            carry_out(&args.select.to_select(), args.consent, |seen| {
                Ok(plan::keepalive(&seen.snapshot, &seen.judgement, wish))
            })
        }
    }
}

/// `keepline apply timeout`, `keepline timeouts set`
///
/// # Errors
/// When it could not run.
pub fn timeout(args: &TimeoutArgs) -> anyhow::Result<u8> {
    let wish = TimeoutWish { tcp: args.tcp, tcp_fin: args.tcpfin, udp: args.udp };
    carry_out(&args.select.to_select(), args.consent, |seen| {
        Ok(plan::timeout(&seen.snapshot, &seen.judgement, wish)?)
    })
}

/// `keepline heal`
///
/// # Errors
/// When it could not run.
pub fn heal(args: &HealArgs) -> anyhow::Result<u8> {
    let mut memory = match run::memory() {
        Ok(memory) => memory,
        // Somebody else's: then only what is seen now counts.
        Err(_) if args.consent.dry_run => Memory::default(),
        Err(error) => return Err(error.into()),
    };
    if let Some(file) = &args.from {
        memory.learn(&captured(file)?, 0);
    }
    carry_out(&args.select.to_select(), args.consent, |seen| {
        Ok(plan::heal(&seen.snapshot, &seen.judgement, &memory))
    })
}

fn captured(file: &Path) -> anyhow::Result<Snapshot> {
    select::snapshot(Some(file), &Select::default(), Owners::MostUrgent(0))
}

/// `keepline touch`
///
/// # Errors
/// When it could not run.
pub fn touch(args: &RemedyArgs) -> anyhow::Result<u8> {
    carry_out(&args.select.to_select(), args.consent, |seen| {
        Ok(plan::touch(&seen.snapshot, &seen.judgement))
    })
}

/// `keepline abort`
///
/// # Errors
/// When it could not run.
pub fn abort(args: &RemedyArgs) -> anyhow::Result<u8> {
    carry_out(&args.select.to_select(), args.consent, |seen| {
        Ok(plan::abort(&seen.snapshot, &seen.judgement))
    })
}

/// A look, judged.
pub(super) struct Seen {
    pub(super) snapshot: Snapshot,
    pub(super) judgement: Judgement,
}

impl Seen {
    pub(super) fn take(select: &Select) -> anyhow::Result<Self> {
        Ok(Self::of(keepline_node::observe(select, Owners::MostUrgent(0))?))
    }

    fn of(snapshot: Snapshot) -> Self {
        let judgement = judge(&snapshot, &Options::default());
        Self { snapshot, judgement }
    }
}

/// Looks, plans, shows, asks, acts, and says what came of it.
fn carry_out(
    select: &Select,
    consent: ConsentArgs,
    plan: impl Fn(&Seen) -> anyhow::Result<Plan>,
) -> anyhow::Result<u8> {
    Ok(carried_out(select, consent, plan)?.status())
}

/// What became of a plan.
enum Outcome {
    /// It was carried out, or there was nothing to do; with the exit status, and what it was made from.
    Done(u8, Box<Seen>),
    /// It was not: it was only shown, or nobody agreed, or nothing of it is possible.
    Not(u8),
}

impl Outcome {
    fn status(&self) -> u8 {
        match self {
            Self::Done(status, _) | Self::Not(status) => *status,
        }
    }
}

fn carried_out(
    select: &Select,
    consent: ConsentArgs,
    plan: impl Fn(&Seen) -> anyhow::Result<Plan>,
) -> anyhow::Result<Outcome> {
    let stop = signals::stop_flag(&[SIGINT, SIGTERM])?;
    // One Keepline at a time from the look on, so that the plan fits what is there.
    let mut exclusive = (!consent.dry_run).then(consent::exclusive).transpose()?;
    let seen = Seen::take(select)?;
    output::warn_incomplete(&seen.snapshot.incomplete);
    let mut wished = plan(&seen)?;
    let shown = Instant::now();
    // Not while somebody thinks about it: a guard would have to wait, and could hold nothing.
    exclusive.take_if(|_| !consent.yes);
    match consent::ask(&wished, seen.snapshot.topology.as_ref(), consent)? {
        Decision::Stop(status) => {
            let nothing_to_do = wished.changes.is_empty() && wished.refused.is_empty();
            let status = incomplete(&seen, status);
            let done = nothing_to_do && !consent.dry_run;
            return Ok(match done {
                true => Outcome::Done(status, Box::new(seen)),
                false => Outcome::Not(status),
            });
        }
        Decision::Go => {}
    }
    let exclusive = match &mut exclusive {
        Some(exclusive) => exclusive,
        none => none.insert(consent::exclusive()?),
    };
    if shown.elapsed() > STALE {
        wished = still_so(&wished, &plan(&Seen::take(select)?)?);
    }
    if wished.action == Action::Hold || wished.action == Action::Rehash {
        exclusive.remember(&seen.snapshot)?;
    }
    let refused = !wished.refused.is_empty();
    let undo = format!("keepline undo {}", wished.action);
    let lasts = wished.changes.iter().any(|change| change.what.lasts()).then_some(undo.as_str());
    let report = keepline_node::act(exclusive, &wished, &stop);
    let status = consent::report(report, refused, lasts)?;
    Ok(Outcome::Done(incomplete(&seen, status), Box::new(seen)))
}

/// What could not be seen was not changed either.
fn incomplete(seen: &Seen, status: u8) -> u8 {
    if seen.snapshot.incomplete.is_empty() { status } else { status.max(IN_PART) }
}

/// What was consented to, as far as it is to be done still: sockets and entries that were not
/// shown are left alone.
fn still_so(shown: &Plan, now: &Plan) -> Plan {
    let mut plan = shown.clone();
    for change in &mut plan.changes {
        let fresh = now.changes.iter().filter(|it| it.place == change.place);
        match &mut change.what {
            What::Abort { sockets } => sockets.retain(|socket| {
                fresh.clone().any(
                    |it| matches!(&it.what, What::Abort { sockets } if sockets.contains(socket)),
                )
            }),
            What::Entries { entries, .. } => entries.retain(|entry| {
                fresh.clone().any(|it| {
                    let What::Entries { entries, .. } = &it.what else { return false };
                    entries.iter().any(|fresh| {
                        (fresh.client, fresh.server, fresh.backend, fresh.was.is_none())
                            == (entry.client, entry.server, entry.backend, entry.was.is_none())
                    })
                })
            }),
            _ => {}
        }
    }
    plan
}

/// Looks again and again. What names meant is known also while the Engine does not answer, and where
/// some of it is gone.
#[derive(Default)]
struct Looker {
    observer: Observer,
    named: Option<Topology>,
    meant: Option<Select>,
    /// Whether it is told that not all is there.
    told: bool,
}

impl Looker {
    fn look(&mut self, select: &Select) -> anyhow::Result<Seen> {
        let error = match Seen::take(select) {
            Err(error) => error,
            Ok(seen) => {
                let complete = |it: &&Topology| it.incomplete.is_empty();
                if let Some(topology) = seen.snapshot.topology.as_ref().filter(complete) {
                    self.named = Some(topology.clone());
                }
                self.meant = (!select.is_everything()).then(|| seen.snapshot.meant(select));
                self.told = false;
                return Ok(seen);
            }
        };
        let Some(meant) = &self.meant else { return Err(error) };
        let seen = Seen::take(meant).or_else(|_| {
            let owners = Owners::MostUrgent(0);
            self.observer.observe(meant, owners, self.named.clone()).map(Seen::of)
        });
        let Ok(seen) = seen else { return Err(error) };
        if !std::mem::replace(&mut self.told, true) {
            say!("keepline: warning: {error:#}; what else was meant is held on");
        }
        Ok(seen)
    }
}

/// `keepline apply hold`
fn hold(args: &HoldArgs) -> anyhow::Result<u8> {
    let select = args.select.to_select();
    if args.once || args.consent.dry_run {
        let wish = HoldWish { lifetime: args.lifetime, due_within: None };
        return carry_out(&select, args.consent, |seen| {
            Ok(plan::hold(&seen.snapshot, &seen.judgement, wish))
        });
    }
    let stop = signals::stop_flag(&[SIGINT, SIGTERM])?;
    drop(consent::exclusive()?);
    let mut looker = Looker::default();
    let first = looker.look(&select)?;
    output::warn_incomplete(&first.snapshot.incomplete);
    let wish = HoldWish::default();
    let wished = plan::hold(&first.snapshot, &first.judgement, wish);
    let topology = first.snapshot.topology.as_ref();
    output::print(&keepline_core::report::plan::human(&wished, topology, output::style()))?;
    if consent::question(args.consent)? != Decision::Go {
        return Ok(IN_PART);
    }
    let mut exclusive = consent::exclusive()?;
    exclusive.remember(&first.snapshot)?;
    let report = keepline_node::act(&mut exclusive, &wished, &stop);
    consent::report(report, false, None)?;
    drop(exclusive);
    let holding = Holding::announce(first.snapshot.scope())?;
    say!("keepline: holding, Ctrl-C ends it");
    let mut pause = plan::hold_pause(&first.snapshot);
    let mut status = consent::DONE;
    loop {
        let next = Instant::now() + pause;
        while !stop.load(Ordering::Relaxed) && Instant::now() < next {
            thread::sleep(TICK.min(next.saturating_duration_since(Instant::now())));
        }
        if stop.load(Ordering::Relaxed) {
            drop(holding);
            say!("keepline: no longer holding; entries run out by their own time");
            return Ok(status);
        }
        match round(&mut looker, &select, pause) {
            Ok((renewed, seen)) => {
                if renewed > 0 {
                    let sessions = counted(renewed, "entry", "entries");
                    say!("keepline: {sessions} renewed");
                }
                pause = plan::hold_pause(&seen.snapshot);
                status = consent::DONE;
            }
            // A namespace that is being rebuilt, another Keepline at work: the next round does it.
            Err(error) => {
                say!("keepline: warning: {error:#}; trying again in {pause:?}");
                status = IN_PART;
            }
        }
    }
}

/// `keepline apply direct`
fn direct(args: &DirectArgs) -> anyhow::Result<u8> {
    let select = args.select.to_select();
    // Where an earlier one has ended, tasks may have gone meanwhile. What cannot be read now is told
    // when it is to be changed.
    let known = || keepline_node::answered_directly().ok().flatten();
    let plan = |seen: &Seen| Ok(plan::direct(&seen.snapshot, &seen.judgement, known().as_deref()));
    let (status, seen) = match carried_out(&select, args.consent, plan)? {
        Outcome::Done(status, seen) if !args.once => (status, seen),
        Outcome::Done(status, _) | Outcome::Not(status) => return Ok(status),
    };
    let Some(known) = known() else { return Ok(status) };
    follow::follow(select, seen, known)?;
    Ok(status)
}

/// One round: entries that would run out before the one after the next get their full time.
fn round(looker: &mut Looker, select: &Select, pause: Duration) -> anyhow::Result<(usize, Seen)> {
    let seen = looker.look(select)?;
    let wish = HoldWish { lifetime: None, due_within: Some(pause * 2 + Duration::from_secs(1)) };
    let wished = plan::hold(&seen.snapshot, &seen.judgement, wish);
    let mut renewed = 0;
    if !wished.changes.is_empty() {
        let mut exclusive: Exclusive = consent::exclusive()?;
        exclusive.remember(&seen.snapshot)?;
        let report = keepline_node::act(&mut exclusive, &wished, &AtomicBool::new(false))?;
        for step in &report.steps {
            if let (What::Entries { entries, .. }, Ok(_)) = (&step.change.what, &step.result) {
                renewed += entries.len();
            }
        }
        let failed = report.steps.into_iter().find_map(|step| {
            let error = step.result.err()?;
            Some(fault(format!("{}: {error}", step.change.place.name), "it is tried again"))
        });
        if let Some(failed) = failed {
            return Err(failed);
        }
    }
    Ok((renewed, seen))
}
