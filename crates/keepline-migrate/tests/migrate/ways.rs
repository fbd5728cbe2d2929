//! There and back.

use std::time::Duration;

use keepline_migrate::{Mode, Outcome, Progress, Stop, spec, state};

use crate::model::Fake;
use crate::specs::db;

fn done() -> Outcome {
    Outcome::Done { warnings: Vec::new() }
}

#[test]
fn there_and_back_only_the_mode_differs() {
    let fake = Fake::with(Mode::Vip);
    for (to, steps) in [(Mode::Dnsrr, 11), (Mode::Vip, 11)] {
        let (outcome, told) = fake.run(|run| run.start(to));
        assert_eq!(outcome, done(), "{told:#?}");
        fake.assert_only(to);
        let begun = told.iter().filter(|it| matches!(it, Progress::Step(..))).count();
        assert_eq!(begun, steps, "{told:#?}");
    }
    assert_eq!(fake.0.borrow().changes, 12);
}

#[test]
fn the_copy_remembers_and_differs_in_nothing_else() {
    let fake = Fake::with(Mode::Vip);
    fake.0.borrow_mut().interrupt = Some(3);
    let (outcome, _) = fake.run(|run| run.start(Mode::Dnsrr));
    assert_eq!(outcome, Outcome::Stopped { why: Stop::Interrupted, back: None });
    let mut copy = fake.0.borrow().service("db-keepline").unwrap().spec;
    let remembered = state::State::read(&copy, "db").unwrap();
    assert_eq!(remembered.spec, db(Mode::Vip));
    assert_eq!((remembered.from, remembered.to), (Mode::Vip, Mode::Dnsrr));
    for label in [state::LABEL, state::SPEC_LABEL, state::CLAIM_LABEL] {
        copy["Labels"].as_object_mut().unwrap().remove(label).unwrap();
    }
    let networks = copy["TaskTemplate"]["Networks"].as_array_mut().unwrap();
    assert_eq!(networks[0]["Aliases"].as_array_mut().unwrap().pop().unwrap(), "db");
    assert_eq!(networks[1].as_object_mut().unwrap().remove("Aliases").unwrap()[0], "db");
    copy["Name"] = "db".into();
    assert_eq!(copy, db(Mode::Dnsrr));
}

#[test]
fn a_network_that_is_not_on_this_node_is_said() {
    let fake = Fake::with(Mode::Vip);
    fake.0.borrow_mut().not_here.insert("net2".to_owned());
    let (outcome, told) = fake.run(|run| run.start(Mode::Dnsrr));
    assert_eq!(outcome, done());
    let note = |it: &Progress| matches!(it, Progress::Note(text) if text.contains("net2"));
    assert!(told.iter().any(note), "{told:#?}");
    fake.assert_only(Mode::Dnsrr);
}

#[test]
fn tasks_on_a_node_that_is_down_are_not_waited_for() {
    let fake = Fake::with(Mode::Dnsrr);
    fake.0.borrow_mut().down.insert(1);
    let began = fake.0.borrow().now;
    assert_eq!(fake.run(|run| run.start(Mode::Vip)).0, done());
    assert!(fake.0.borrow().now - began < Duration::from_secs(60));
    fake.assert_only(Mode::Vip);
}

#[test]
fn with_nothing_begun_there_is_nothing_to_take_up() {
    let fake = Fake::with(Mode::Vip);
    for back in [false, true] {
        let (outcome, _) = fake.take_up(back);
        assert_eq!(outcome, Outcome::NothingToDo);
    }
    assert_eq!(fake.0.borrow().changes, 0);
    fake.assert_only(Mode::Vip);
}

#[test]
fn somebody_elses_service_is_not_taken_for_the_copy() {
    let fake = Fake::with(Mode::Vip);
    let mut foreign = db(Mode::Vip);
    foreign["Name"] = spec::copy_name("db").into();
    fake.0.borrow_mut().add(&foreign).unwrap();
    let (outcome, _) = fake.run(|run| run.start(Mode::Dnsrr));
    let why = Stop::NameTaken("db-keepline".to_owned());
    assert_eq!(outcome, Outcome::Stopped { why, back: None });
    assert_eq!(fake.0.borrow().changes, 0);
}
