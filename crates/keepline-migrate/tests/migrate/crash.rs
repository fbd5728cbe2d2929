//! A program that dies at any call, and one that is interrupted at any wait: another takes it up
//! or goes back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use keepline_migrate::{Mode, Outcome, Stop};

use crate::model::{Crash, Fake, Fault};

const BOTH_WAYS: [(Mode, Mode); 2] = [(Mode::Vip, Mode::Dnsrr), (Mode::Dnsrr, Mode::Vip)];

fn done() -> Outcome {
    Outcome::Done { warnings: Vec::new() }
}

/// Calls and sleeps of a whole run.
fn whole(from: Mode, to: Mode) -> (usize, usize) {
    let fake = Fake::with(from);
    assert_eq!(fake.run(|run| run.start(to)).0, done());
    let swarm = fake.0.borrow();
    (swarm.calls, swarm.sleeps)
}

/// A run that dies as `fault` says.
fn dead(from: Mode, to: Mode, at: usize, fault: Fault) -> Fake {
    let fake = Fake::with(from);
    fake.0.borrow_mut().fault = Some((at, fault));
    let died = catch_unwind(AssertUnwindSafe(|| fake.run(|run| run.start(to))));
    assert!(died.is_err_and(|panic| panic.is::<Crash>()), "call {at} came");
    fake.0.borrow_mut().fault = None;
    fake
}

/// Takes up what a run left, forward or back; gives the mode in which the service ends.
fn take_up(fake: &Fake, from: Mode, to: Mode, back: bool) -> Mode {
    let begun = fake.0.borrow().service("db-keepline").is_some();
    let (outcome, told) = fake.take_up(back);
    if begun {
        assert_eq!(outcome, done(), "{told:#?}");
        return if back { from } else { to };
    }
    // Not begun yet, or at its end.
    assert_eq!(outcome, Outcome::NothingToDo);
    fake.0.borrow().service("db").unwrap().mode()
}

#[test]
fn after_a_crash_at_any_call_it_goes_on_or_back() {
    for (from, to) in BOTH_WAYS {
        let (calls, _) = whole(from, to);
        assert!(calls > 50, "{calls}");
        for at in 1..=calls {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                for back in [false, true] {
                    let fake = dead(from, to, at, fault);
                    let mode = take_up(&fake, from, to, back);
                    fake.assert_only(mode);
                }
            }
        }
    }
}

#[test]
fn a_rollback_that_dies_at_any_call_is_taken_up_too() {
    let (from, to) = (Mode::Vip, Mode::Dnsrr);
    let (calls, _) = whole(from, to);
    // After the new service was created, so that the way back is the longest.
    let at = (1..=calls)
        .find(|at| {
            let fake = dead(from, to, *at, Fault::CrashAfter);
            fake.0.borrow().changes == 4
        })
        .unwrap();
    let before = dead(from, to, at, Fault::CrashAfter).0.borrow().calls;
    let all = {
        let fake = dead(from, to, at, Fault::CrashAfter);
        assert_eq!(fake.rollback().0, done());
        fake.assert_only(from);
        fake.0.borrow().calls
    };
    for second in before + 1..=all {
        for back in [false, true] {
            let fake = dead(from, to, at, Fault::CrashAfter);
            fake.0.borrow_mut().fault = Some((second, Fault::CrashAfter));
            let died = catch_unwind(AssertUnwindSafe(|| fake.rollback()));
            assert!(died.is_err(), "call {second} came");
            fake.0.borrow_mut().fault = None;
            let mode = take_up(&fake, from, to, back);
            fake.assert_only(mode);
        }
    }
}

#[test]
fn interrupted_at_any_wait_it_can_be_taken_up() {
    for (from, to) in BOTH_WAYS {
        let (_, sleeps) = whole(from, to);
        for at in 1..=sleeps {
            for back in [false, true] {
                let fake = Fake::with(from);
                fake.0.borrow_mut().interrupt = Some(at);
                match fake.run(|run| run.start(to)).0 {
                    Outcome::Stopped { why: Stop::Interrupted, back: None } => {}
                    // The copy was removed already.
                    Outcome::Done { warnings } => assert_eq!(warnings, ["interrupted"]),
                    other => panic!("{other:?}"),
                }
                let mode = take_up(&fake, from, to, back);
                fake.assert_only(mode);
            }
        }
    }
}

#[test]
fn an_engine_that_fails_once_anywhere_is_asked_again() {
    for (from, to) in BOTH_WAYS {
        let (calls, _) = whole(from, to);
        for at in 1..=calls {
            for fault in [Fault::FailBefore, Fault::FailAfter] {
                let fake = Fake::with(from);
                fake.0.borrow_mut().fault = Some((at, fault));
                let (outcome, told) = fake.run(|run| run.start(to));
                assert_eq!(outcome, done(), "call {at} {fault:?}: {told:#?}");
                fake.assert_only(to);
            }
        }
    }
}
