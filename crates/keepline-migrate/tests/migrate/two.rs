//! Two runs in opposite directions at once. The model holds at each call and each moment that the
//! name leads to a task: so never are both the service and its copy gone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use keepline_migrate::state::{CLAIM_LABEL, Claim};
use keepline_migrate::{Migration, Mode, Outcome, Progress, Service, Stop, spec};
use serde_json::json;

use crate::model::{Crash, Fake, Fault};
use crate::turns::{Ending, Player, Turn, Turns};

type Work = fn(&mut Migration<'_>) -> Outcome;
type Ran = Option<(Outcome, Vec<Progress>)>;

fn there(run: &mut Migration<'_>) -> Outcome {
    run.start(Mode::Dnsrr)
}

fn on(run: &mut Migration<'_>) -> Outcome {
    run.resume()
}

fn back(run: &mut Migration<'_>) -> Outcome {
    run.rollback()
}

fn done() -> Outcome {
    Outcome::Done { warnings: Vec::new() }
}

/// Both runs as the script says, each in its thread; none for one that died.
fn both(fake: &Fake, works: [Work; 2], script: &[Turn]) -> [Ran; 2] {
    let turns = Turns::new(script);
    thread::scope(|scope| {
        let threads = [0, 1].map(|who| {
            let player = Player { turns: turns.clone(), who };
            let own = Fake(fake.0.clone(), Some(player.clone()));
            scope.spawn(move || {
                let _ending = Ending(player);
                match catch_unwind(AssertUnwindSafe(|| own.run(works[who]))) {
                    Ok(ran) => Some(ran),
                    Err(panic) if panic.is::<Crash>() => None,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            })
        });
        threads.map(|thread| match thread.join() {
            Ok(ran) => ran,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// A migration whose run died after so many changes.
fn begun(changes: usize) -> Fake {
    let fake = Fake::with(Mode::Vip);
    if changes == 0 {
        return fake;
    }
    fake.run(there);
    let at = fake.0.borrow().changed_at[changes - 1];
    let fake = Fake::with(Mode::Vip);
    fake.0.borrow_mut().fault = Some((at, Fault::CrashAfter));
    assert!(catch_unwind(AssertUnwindSafe(|| fake.run(there))).is_err());
    fake.0.borrow_mut().fault = None;
    fake
}

fn service(fake: &Fake, name: &str) -> Service {
    fake.0.borrow().service(name).unwrap()
}

/// Whatever became of them, one more run ends it. New tasks may meet old ones only where it is said.
fn settle(fake: &Fake, may_meet: bool, script: &[Turn], ran: &[Ran; 2]) {
    let told = || format!("{script:?} {ran:#?}");
    if fake.0.borrow().service("db-keepline").is_some() {
        let rolled = fake.rollback();
        assert_eq!(rolled.0, done(), "{rolled:#?} {}", told());
        return fake.assert_only(Mode::Vip);
    }
    if may_meet {
        fake.0.borrow_mut().overlaps = 0;
    }
    assert_eq!(fake.0.borrow().overlaps, 0, "{}", told());
    let mode = fake.0.borrow().service("db").unwrap().mode();
    fake.assert_only(mode);
}

/// The first is held up before each of its calls; then comes the second, up to each of its
/// changes or past it, and is held up in turn; then the first to its end, and the second, unless
/// it dies.
fn every_step_against_every_step(changes: usize, works: [Work; 2], goals: [Mode; 2]) {
    let calls = {
        let fake = begun(changes);
        let before = fake.0.borrow().calls;
        fake.run(works[0]);
        let swarm = fake.0.borrow();
        swarm.calls - before
    };
    let may_meet = goals[0] == goals[1];
    let mut overtaken = 0;
    for first in 0..calls {
        let fake = begun(changes);
        let before = fake.0.borrow().calls;
        let script = [Turn::Calls(0, first), Turn::All(1), Turn::All(0)];
        let ran = both(&fake, works, &script);
        settle(&fake, may_meet, &script, &ran);
        let points: Vec<usize> = fake
            .0
            .borrow()
            .changed_at
            .iter()
            .filter_map(|at| at.checked_sub(before + first + 1))
            .filter(|at| *at < 2 * calls)
            .flat_map(|at| [at, at + 1])
            .collect();
        for second in points {
            for end in [Turn::All(1), Turn::Dies(1)] {
                let fake = begun(changes);
                let start = [Turn::Calls(0, first), Turn::Calls(1, second), Turn::All(0), end];
                let ran = both(&fake, works, &start);
                let whole = ran.iter().flatten().filter(|(outcome, _)| *outcome == done()).count();
                let stops = ran.iter().flatten().filter(|(outcome, _)| {
                    matches!(
                        outcome,
                        Outcome::Stopped {
                            why: Stop::Overtaken { .. } | Stop::Ended { .. },
                            back: None
                        }
                    )
                });
                let stopped = stops.count();
                overtaken += stopped;
                let idle = ran.iter().flatten().any(|(it, _)| *it == Outcome::NothingToDo);
                // A run ends it, and the other one says why it did not; or one came too late.
                if end == Turn::All(1) {
                    assert!(whole > 0 && (whole + stopped == 2 || idle), "{start:?} {ran:#?}");
                    let mode = fake.0.borrow().service("db").unwrap().mode();
                    let won = ran.iter().zip(goals).any(|(ran, goal)| {
                        goal == mode && ran.as_ref().is_some_and(|(outcome, _)| *outcome == done())
                    });
                    assert!(won, "{start:?} {mode} {ran:#?}");
                    assert_eq!(fake.0.borrow().names(), ["db"], "{start:?} {ran:#?}");
                }
                settle(&fake, may_meet, &start, &ran);
            }
        }
    }
    assert!(overtaken > 0);
}

#[test]
fn a_rollback_at_any_step_of_a_migration() {
    every_step_against_every_step(0, [there, back], [Mode::Dnsrr, Mode::Vip]);
}

#[test]
fn a_rollback_at_any_step_of_one_that_goes_on() {
    every_step_against_every_step(4, [on, back], [Mode::Dnsrr, Mode::Vip]);
}

#[test]
fn going_on_at_any_step_of_a_rollback() {
    for changes in [1, 4] {
        every_step_against_every_step(changes, [back, on], [Mode::Vip, Mode::Dnsrr]);
    }
}

#[test]
fn two_migrations_that_begin_at_once() {
    // A run that is held up right before it creates the copy may do so when all is done: the copy
    // goes again, and its tasks may meet old ones.
    every_step_against_every_step(0, [there, there], [Mode::Dnsrr, Mode::Dnsrr]);
}

#[test]
fn each_is_told_of_the_other() {
    let fake = begun(1);
    let first = Claim::read(&service(&fake, "db-keepline").spec).unwrap();
    let ran = both(&fake, [on, back], &[Turn::Calls(0, 20), Turn::All(1), Turn::All(0)]);
    let [Some((Outcome::Stopped { why, back: None }, _)), Some((outcome, told))] = ran else {
        panic!("{ran:#?}")
    };
    assert_eq!(outcome, done());
    let note = format!("taken over from {first}");
    let is_note = |it: &Progress| matches!(it, Progress::Note(text) if text.starts_with(&note));
    assert!(told.iter().any(is_note), "{told:#?}");
    assert_eq!(why, Stop::Ended { service: "db".to_owned() });
    fake.assert_only(Mode::Vip);

    let ran = both(&begun(1), [on, back], &[Turn::Calls(0, 20), Turn::Calls(1, 9), Turn::All(0)]);
    let Some((Outcome::Stopped { why, back: None }, _)) = &ran[0] else { panic!("{ran:#?}") };
    let text = why.to_string();
    // Both are of this process.
    assert!(matches!(why, Stop::Overtaken { by, .. } if *by == first.to_string()), "{text}");
    assert!(text.contains("Let that one end, or take it over"), "{text}");
}

/// The removal may come late still: nothing may rely on the service, and it is made anew.
#[test]
fn a_service_that_must_go_is_not_gone_back_to() {
    for change in [false, true] {
        for goes_back in [false, true] {
            // Died when it had said what it removes, and before it did.
            let fake = begun(2);
            let old = service(&fake, "db");
            let claim = Claim::read(&service(&fake, "db-keepline").spec).unwrap();
            assert_eq!(claim.removes.as_ref(), Some(&old.id));
            if change {
                fake.0
                    .borrow_mut()
                    .change_spec("db", |spec| spec["Labels"]["team"] = json!("other"));
            }
            let (outcome, told) = fake.take_up(goes_back);
            let new = service(&fake, "db");
            assert_ne!(new.id, old.id);
            if change && !goes_back {
                let why = Stop::Changed { service: "db".to_owned() };
                assert_eq!(outcome, Outcome::RolledBack { why }, "{told:#?}");
            } else {
                assert_eq!(outcome, done(), "{told:#?}");
            }
            let mode = if change || goes_back { Mode::Vip } else { Mode::Dnsrr };
            let mut expected = old.spec;
            if change {
                expected["Labels"]["team"] = json!("other");
            }
            assert_eq!(new.spec, spec::with_mode(&expected, mode));
            assert_eq!(fake.0.borrow().names(), ["db"]);
        }
    }
}

#[test]
fn who_else_writes_to_the_copy_does_not_stop_it() {
    let fake = Fake::with(Mode::Vip);
    fake.run(there);
    let calls = fake.0.borrow().calls;
    for at in 1..=calls {
        let fake = Fake::with(Mode::Vip);
        fake.0.borrow_mut().touch = Some((at, "db-keepline"));
        let (outcome, told) = fake.run(there);
        assert_eq!(outcome, done(), "call {at}: {told:#?}");
        fake.assert_only(Mode::Dnsrr);
    }
}

#[test]
fn a_copy_of_an_older_version_is_taken_up() {
    for goes_back in [false, true] {
        let fake = begun(1);
        fake.0.borrow_mut().change_spec("db-keepline", |spec| {
            spec["Labels"].as_object_mut().unwrap().remove(CLAIM_LABEL).unwrap();
        });
        assert_eq!(fake.take_up(goes_back).0, done());
        fake.assert_only(if goes_back { Mode::Vip } else { Mode::Dnsrr });
    }
}
