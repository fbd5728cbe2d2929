//! What is waited for: tasks that run, tasks that have stopped. Pure; the loops are in `run`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Service, Task, TaskState, spec};

/// How far the tasks of a service are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    /// How many shall run.
    pub(crate) wanted: usize,
    /// Those that do.
    pub(crate) running: BTreeSet<String>,
    /// Why one failed.
    pub(crate) failed: Option<String>,
    /// In words.
    pub(crate) text: String,
}

impl Tally {
    /// Of `tasks` those of `service`; failures in `known` are old ones.
    pub(crate) fn of(service: &Service, tasks: &[Task], known: &BTreeSet<String>) -> Self {
        let own: Vec<&Task> = tasks.iter().filter(|task| task.service == service.id).collect();
        let wanted_now = own.iter().filter(|task| task.wanted).count();
        // A global service has one on each node that fits: what the Swarm wants is what there is.
        let wanted = spec::replicas(&service.spec)
            .map_or(wanted_now, |replicas| usize::try_from(replicas).unwrap_or(usize::MAX))
            .max(1);
        let running: BTreeSet<String> =
            own.iter().filter(|task| task.serves()).map(|task| task.id.clone()).collect();
        let failed = own
            .iter()
            .find(|task| task.state == TaskState::Failed && !known.contains(&task.id))
            .map(|task| task.why.clone().unwrap_or_else(|| task.word.clone()));
        let text = text(wanted, running.len(), &own);
        Self { wanted, running, failed, text }
    }

    /// Whether all run.
    pub(crate) fn is_complete(&self) -> bool {
        self.running.len() >= self.wanted
    }
}

/// `1 of 2 tasks run; 1 pending: no suitable node`.
fn text(wanted: usize, running: usize, own: &[&Task]) -> String {
    let mut text = format!("{running} of {wanted} run");
    let mut coming: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for task in own.iter().filter(|task| task.wanted && task.state == TaskState::Coming) {
        *coming.entry((&task.word, task.why.as_deref().unwrap_or_default())).or_default() += 1;
    }
    for ((word, why), count) in coming {
        text.push_str(&format!("; {count} {word}"));
        if !why.is_empty() {
            text.push_str(&format!(": {why}"));
        }
    }
    text
}

/// Ids of tasks that have failed.
pub(crate) fn failures(service: &Service, tasks: &[Task]) -> BTreeSet<String> {
    tasks
        .iter()
        .filter(|task| task.service == service.id && task.state == TaskState::Failed)
        .map(|task| task.id.clone())
        .collect()
}

/// Tasks of services that are gone which have not stopped yet. Nothing is heard of those on a node
/// that is `down`.
pub(crate) fn stopping(
    tasks: &[Task],
    present: Option<&Service>,
    down: &BTreeSet<String>,
) -> usize {
    tasks
        .iter()
        .filter(|task| present.is_none_or(|service| task.service != service.id))
        .filter(|task| task.lives() && task.node.as_ref().is_some_and(|node| !down.contains(node)))
        .count()
}
