//! Scenarios: a lab, something that happens in it, and a verdict on what Keepline said.

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use crate::error::{LabError, io_error};
use crate::interrupt::Interrupt;
use crate::lab::{ClientSpec, Lab, Spec, default_id};
use crate::layout::Layout;
use crate::program::{self, Verdicts};
use crate::units::{Keepalive, format_duration};

/// Time beyond the timeout after which an entry is gone for certain: timers of the kernel are
/// never early, and under load a little late.
pub(crate) const MARGIN: Duration = Duration::from_secs(2);
/// Sessions of `idle-loss`.
const IDLE_SESSIONS: u32 = 4;
/// New sessions a second, and sessions open at a time, of `churn`.
const CHURN_RATE: u32 = 1000;
const CHURN_PARALLEL: u32 = 500;

/// What a scenario takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub layout: Layout,
    pub tcp_timeout: Duration,
    /// How long `churn` goes on.
    pub duration: Duration,
}

fn line(text: std::fmt::Arguments<'_>) -> Result<(), LabError> {
    let mut out = stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(io_error("write to stdout"))
}

fn up(setting: Setting, sessions: u32, interrupt: &Interrupt) -> Result<Lab, LabError> {
    let spec = Spec::new(default_id(), setting.layout, setting.tcp_timeout, sessions);
    let lab = Lab::up_for_this_program(&spec, interrupt)?;
    line(format_args!(
        "lab {}: layout {}, a silent session is forgotten after {}",
        spec.id,
        spec.layout,
        format_duration(spec.tcp_timeout)
    ))?;
    Ok(lab)
}

/// Connects, falls silent, checks, writes. True when every session was lost and `check` had said
/// so: first that it would be, then that it was.
pub(crate) fn idle_loss(setting: Setting, interrupt: &Interrupt) -> Result<bool, LabError> {
    let lab = up(setting, IDLE_SESSIONS, interrupt)?;
    let connected = Instant::now();
    let netns = &lab.state().client_netns;
    line(format_args!("connected {IDLE_SESSIONS} sessions, each used once, none with keepalive"))?;
    let before = program::check(netns)?;
    report("check, at once", before)?;
    let silence = (setting.tcp_timeout + MARGIN).saturating_sub(connected.elapsed());
    line(format_args!("silence for {} s", silence.as_secs()))?;
    interrupt.sleep(silence)?;
    let after = program::check(netns)?;
    report("check, after the silence", after)?;
    let summary = lab.state().write()?;
    line(format_args!("the application writes: {summary}"))?;
    lab.down()?;
    let lost = summary.lost();
    line(format_args!(
        "result: lost {lost} of {IDLE_SESSIONS}, foretold {} of {IDLE_SESSIONS}, found {} of {IDLE_SESSIONS}",
        before.at_risk, after.orphaned
    ))?;
    Ok([lost, before.at_risk, after.orphaned] == [IDLE_SESSIONS; 3])
}

fn report(when: &str, verdicts: Verdicts) -> Result<(), LabError> {
    let Verdicts { safe, at_risk, orphaned } = verdicts;
    line(format_args!("{when}: {safe} safe, {at_risk} at risk, {orphaned} orphaned"))
}

/// Opens and closes sessions while `check` runs again and again. True when no check called any
/// session orphaned.
pub(crate) fn churn(setting: Setting, interrupt: &Interrupt) -> Result<bool, LabError> {
    let mut lab = up(setting, 0, interrupt)?;
    // Some that stay, kept alive: they must never be called orphaned either.
    let second = Duration::from_secs(1);
    let stay = ClientSpec {
        name: "app".to_owned(),
        sessions: IDLE_SESSIONS,
        keepalive: Some(Keepalive { idle: second, interval: second, count: 3 }),
    };
    lab.add_client(&stay)?;
    lab.add_churn(CHURN_RATE, CHURN_PARALLEL)?;
    line(format_args!(
        "{IDLE_SESSIONS} sessions stay; {CHURN_RATE} come and go each second, {CHURN_PARALLEL} at a time"
    ))?;
    let end = Instant::now() + setting.duration;
    let (mut checks, mut orphans, mut most) = (0, 0, 0);
    while Instant::now() < end {
        interrupt.check()?;
        let Verdicts { safe, at_risk, orphaned } = program::check(&lab.state().client_netns)?;
        checks += 1;
        orphans += orphaned;
        most = most.max(safe + at_risk);
    }
    lab.down()?;
    line(format_args!(
        "result: {checks} checks of up to {most} sessions, {orphans} orphans reported (must be 0)"
    ))?;
    Ok(orphans == 0 && most > IDLE_SESSIONS)
}
