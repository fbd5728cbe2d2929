//! What does not work out goes back by itself.

use std::time::Duration;

use keepline_migrate::{Mode, Outcome, Progress, Stop};
use serde_json::json;

use crate::model::{Fake, Fate};

const SOON: Fate = Fate::Fail(Duration::from_secs(4));
const AT_ONCE: Fate = Fate::Fail(Duration::from_secs(1));

fn doomed(from: Mode, name: &str, mode: Mode, fate: Fate) -> Fake {
    let fake = Fake::with(from);
    fake.0.borrow_mut().fates.insert((name.to_owned(), mode.name()), fate);
    fake
}

fn rolled_back(fake: &Fake, to: Mode) -> Stop {
    let (outcome, told) = fake.run(|run| run.start(to));
    let Outcome::RolledBack { why } = outcome else { panic!("{outcome:?} {told:#?}") };
    assert!(told.iter().any(|it| matches!(it, Progress::Back(_))), "{told:#?}");
    why
}

#[test]
fn a_copy_that_is_not_healthy_is_taken_away() {
    for fate in [AT_ONCE, SOON] {
        let fake = doomed(Mode::Vip, "db-keepline", Mode::Dnsrr, fate);
        let why = rolled_back(&fake, Mode::Dnsrr);
        let service = "db-keepline".to_owned();
        assert_eq!(why, Stop::TaskFailed { service, why: "unhealthy container".to_owned() });
        fake.assert_only(Mode::Vip);
    }
}

#[test]
fn a_copy_that_finds_no_node_is_taken_away_in_the_end() {
    let fake = doomed(Mode::Vip, "db-keepline", Mode::Dnsrr, Fate::Pending);
    let why = rolled_back(&fake, Mode::Dnsrr);
    assert!(matches!(&why, Stop::Timeout { seen, .. } if seen == "0 of 2 run; 2 pending"), "{why}");
    fake.assert_only(Mode::Vip);
}

#[test]
fn a_new_service_that_is_not_healthy_gives_way_to_the_old_one() {
    for (from, to) in [(Mode::Vip, Mode::Dnsrr), (Mode::Dnsrr, Mode::Vip)] {
        for fate in [AT_ONCE, SOON, Fate::Pending] {
            let fake = doomed(from, "db", to, fate);
            rolled_back(&fake, to);
            fake.assert_only(from);
        }
    }
}

#[test]
fn old_failures_of_the_service_do_not_count() {
    let fake = Fake::with(Mode::Vip);
    {
        let mut swarm = fake.0.borrow_mut();
        swarm.guarded = None;
        swarm.kill_all_of("db");
        swarm.pass(Duration::from_secs(30));
        assert_eq!(swarm.running("db"), 2);
        swarm.guarded = Some("db".to_owned());
    }
    let outcome = fake.run(|run| run.start(Mode::Dnsrr)).0;
    assert_eq!(outcome, Outcome::Done { warnings: Vec::new() });
    fake.assert_only(Mode::Dnsrr);
}

#[test]
fn a_service_that_somebody_changes_meanwhile_keeps_the_change() {
    let fake = Fake::with(Mode::Vip);
    fake.0.borrow_mut().interrupt = Some(5);
    fake.run(|run| run.start(Mode::Dnsrr));
    fake.0.borrow_mut().change_spec("db", |spec| spec["Labels"]["team"] = json!("other"));
    let (outcome, _) = fake.resume();
    let why = Stop::Changed { service: "db".to_owned() };
    assert_eq!(outcome, Outcome::RolledBack { why });
    let swarm = fake.0.borrow();
    assert_eq!(swarm.names(), ["db"]);
    assert_eq!(swarm.service("db").unwrap().spec["Labels"]["team"], "other");
}

/// Nothing is removed that the name depends on: the copy is looked at once more right before.
#[test]
fn when_the_copy_dies_before_the_removal_nothing_is_removed() {
    let fake = Fake::with(Mode::Vip);
    fake.run(|run| run.start(Mode::Dnsrr));
    let removed = fake.0.borrow().removed_at.unwrap();
    // Two calls before is the last look at its tasks.
    for at in 6..=removed - 2 {
        let fake = Fake::with(Mode::Vip);
        fake.0.borrow_mut().kill = Some((at, "db-keepline"));
        let (outcome, told) = fake.run(|run| run.start(Mode::Dnsrr));
        let created = fake.0.borrow().changes > 0 && matches!(outcome, Outcome::RolledBack { .. });
        assert!(created || at < 10, "call {at}: {outcome:?} {told:#?}");
        let mode = fake.0.borrow().service("db").unwrap().mode();
        fake.assert_only(mode);
    }
}

#[test]
fn when_the_copy_dies_too_the_service_comes_back_at_once() {
    // Interrupted when the original has just been removed.
    let fake = (1..)
        .map(|at| {
            let fake = Fake::with(Mode::Vip);
            fake.0.borrow_mut().interrupt = Some(at);
            fake.run(|run| run.start(Mode::Dnsrr));
            fake
        })
        .find(|fake| fake.0.borrow().service("db").is_none())
        .unwrap();
    // Nothing can hold the name now.
    fake.0.borrow_mut().guarded = None;
    fake.0.borrow_mut().kill_all_of("db-keepline");
    let outcome = fake.rollback().0;
    assert_eq!(outcome, Outcome::Done { warnings: Vec::new() });
    // The tasks that were still stopping were not waited for.
    assert!(std::mem::take(&mut fake.0.borrow_mut().overlaps) > 0);
    fake.assert_only(Mode::Vip);
}
