//! What is there and the mode wanted, turned into steps. The same function serves the way
//! forward, a run taken up again, and the way back: only the mode wanted differs.

use keepline_core::duration;
use keepline_core::report::counted;
use serde_json::Value;

use crate::{Mode, spec};

/// One of the two services of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The service under its own name.
    Service,
    /// Its copy.
    Copy,
}

/// What is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The service and its mode.
    pub service: Option<Mode>,
    /// Whether its copy is there.
    pub copy: bool,
    /// Which of them a run has set out to remove: it may go at any moment, and must go.
    pub doomed: Option<Which>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Create the copy.
    CreateCopy,
    /// Create the service in this mode.
    Create(Mode),
    /// Wait until all its tasks run, are healthy and stay so.
    Await(Which),
    /// See from inside each network that the service's name is resolved to its tasks.
    Verify(Which),
    /// Remove it.
    Remove(Which),
    /// Wait until its tasks have stopped.
    Drain(Which),
}

impl Step {
    /// Whether the Swarm is changed by it.
    #[must_use]
    pub fn acts(self) -> bool {
        matches!(self, Self::CreateCopy | Self::Create(_) | Self::Remove(_))
    }

    /// In words, for the service with this spec.
    #[must_use]
    pub fn text(self, service: &Value) -> String {
        let own = service["Name"].as_str().unwrap_or_default();
        let copy = spec::copy_name(own);
        let name = |which| match which {
            Which::Service => own,
            Which::Copy => copy.as_str(),
        };
        match self {
            Self::CreateCopy => format!("create {copy}: a copy with the network alias {own}"),
            Self::Create(mode) => format!("create {own} in mode {mode}"),
            Self::Await(which) => {
                let tasks = match spec::replicas(service) {
                    Some(replicas) => counted(count(replicas), "task", "tasks"),
                    None => "all tasks".to_owned(),
                };
                let steady = duration::human(spec::monitor(service));
                format!("wait until {tasks} of {} run and are healthy for {steady}", name(which))
            }
            Self::Verify(which) => {
                format!("look up {own} in each network: it must lead to {}", name(which))
            }
            Self::Remove(which) => format!("remove {}", name(which)),
            Self::Drain(which) => format!(
                "wait until the tasks of {} have stopped (they may take {})",
                name(which),
                duration::human(spec::stop_grace(service))
            ),
        }
    }
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The steps from `shape` to the service in the mode `goal` and no copy; none where nothing is
/// left of either.
///
/// Before something is removed, the other one is waited for and its name looked up: at no moment
/// does the name depend on something that was not seen to work, or that is doomed.
#[must_use]
pub fn plan(shape: Shape, goal: Mode) -> Option<Vec<Step>> {
    use Which::{Copy, Service};
    let mut steps = Vec::new();
    match (shape.service, shape.copy) {
        (None, false) => return None,
        (Some(mode), false) if mode == goal => return Some(steps),
        (Some(mode), true) if mode == goal && shape.doomed != Some(Service) => {}
        (Some(_), true) if shape.doomed == Some(Copy) => {
            // That migration is as good as ended; the way back is one with a copy of its own.
            steps.extend([Step::Await(Service), Step::Verify(Service)]);
            steps.extend([Step::Remove(Copy), Step::Drain(Copy)]);
            steps.extend(plan(Shape { copy: false, doomed: None, ..shape }, goal)?);
            return Some(steps);
        }
        (None, true) => steps.extend([Step::Drain(Service), Step::Create(goal)]),
        (Some(_), copy) => {
            if !copy {
                steps.push(Step::CreateCopy);
            }
            steps.extend([Step::Await(Copy), Step::Verify(Copy)]);
            steps.extend([Step::Remove(Service), Step::Drain(Service), Step::Create(goal)]);
        }
    }
    steps.extend([Step::Await(Service), Step::Verify(Service)]);
    steps.extend([Step::Remove(Copy), Step::Drain(Copy), Step::Verify(Service)]);
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn shape(service: Option<Mode>, copy: bool, doomed: Option<Which>) -> Shape {
        Shape { service, copy, doomed }
    }

    const SHAPES: [Shape; 10] = [
        shape(Some(Mode::Vip), false, None),
        shape(Some(Mode::Vip), true, None),
        shape(Some(Mode::Vip), true, Some(Which::Service)),
        shape(Some(Mode::Vip), true, Some(Which::Copy)),
        shape(None, true, None),
        shape(None, true, Some(Which::Copy)),
        shape(Some(Mode::Dnsrr), true, None),
        shape(Some(Mode::Dnsrr), true, Some(Which::Service)),
        shape(Some(Mode::Dnsrr), true, Some(Which::Copy)),
        shape(Some(Mode::Dnsrr), false, None),
    ];

    fn after(shape: Shape, step: Step) -> Shape {
        let mut shape = shape;
        match step {
            Step::CreateCopy => shape.copy = true,
            Step::Create(mode) => shape.service = Some(mode),
            Step::Remove(which) => {
                match which {
                    Which::Copy => shape.copy = false,
                    Which::Service => shape.service = None,
                }
                shape.doomed = shape.doomed.filter(|doomed| *doomed != which);
            }
            Step::Await(_) | Step::Verify(_) | Step::Drain(_) => {}
        }
        shape
    }

    #[test]
    fn every_plan_ends_at_the_goal_and_never_leaves_nothing() {
        for start in SHAPES {
            for goal in [Mode::Vip, Mode::Dnsrr] {
                let mut shape = start;
                for step in plan(start, goal).unwrap() {
                    shape = after(shape, step);
                    assert!(shape.service.is_some() || shape.copy, "{start:?} {goal} {step:?}");
                    // What is doomed may be gone already.
                    if let Some(doomed) = shape.doomed {
                        let left = after(shape, Step::Remove(doomed));
                        let is_left = left.service.is_some() || left.copy;
                        assert!(is_left || start.service.is_none(), "{start:?} {goal} {step:?}");
                    }
                }
                assert_eq!(shape, self::shape(Some(goal), false, None), "{start:?}");
            }
        }
    }

    #[test]
    fn what_is_left_after_any_step_is_planned_as_the_rest() {
        let goal = Mode::Dnsrr;
        let steps = plan(SHAPES[0], goal).unwrap();
        let mut shape = SHAPES[0];
        for (index, step) in steps.iter().enumerate() {
            shape = after(shape, *step);
            if step.acts() {
                let rest = plan(shape, goal).unwrap();
                let left = &steps[index + 1..];
                // The very last look is not repeated once everything is in place.
                assert!(rest == left || rest.is_empty(), "{step:?}: {rest:?} / {left:?}");
            }
        }
    }
}
