//! What the kernel refuses is tried again, less and less often.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use keepline_core::plan::{Change, What};

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// Entries run out meanwhile.
const LONGEST_OF_ENTRIES: Duration = Duration::from_secs(2);

/// Failures that were seen.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: BTreeMap<String, Failure>,
}

#[derive(Debug)]
struct Failure {
    times: u32,
    again: Instant,
    why: String,
}

impl Backoff {
    /// Why a change is not to be tried now, if so.
    pub(crate) fn waits(&self, change: &Change, now: Instant) -> Option<&str> {
        let failure = self.failures.get(&key(change)).filter(|it| it.again > now)?;
        Some(&failure.why)
    }

    /// It was done.
    pub(crate) fn went(&mut self, change: &Change) {
        self.failures.remove(&key(change));
    }

    /// It was refused; whether that is news.
    pub(crate) fn failed(&mut self, change: &Change, why: String, now: Instant) -> bool {
        let longest = match change.what {
            What::Entries { .. } => LONGEST_OF_ENTRIES,
            _ => LONGEST,
        };
        let failure = Failure { times: 0, again: now, why: String::new() };
        let failure = self.failures.entry(key(change)).or_insert(failure);
        let pause = Duration::from_secs(1 << failure.times.min(6)).min(longest);
        failure.times += 1;
        (failure.again, failure.why) = (now + pause, why);
        failure.times == 1
    }

    /// When the next is due again.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.again).min()
    }

    /// Forgets what no longer is there to be changed.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.failures.retain(|_, failure| failure.again + LONGEST > now);
    }
}

fn key(change: &Change) -> String {
    let object = match &change.what {
        What::Entries { table, .. } => format!("entries of {}", table.name()),
        What::Keepalive { .. } => "keepalive".to_owned(),
        other => other.describe().0,
    };
    format!("{}/{object}", change.place.inode)
}

#[cfg(test)]
mod tests {
    use keepline_core::plan::Place;

    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let what = What::Sysctl { path: "a".into(), before: "0".into(), after: "1".into() };
        let change = Change { place: Place { inode: 1, cookie: None, name: "x".into() }, what };
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let why = || "refused".to_owned();
        assert_eq!(backoff.waits(&change, now), None);
        assert!(backoff.failed(&change, why(), now), "the first failure is news");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let next = backoff.next().unwrap();
            let before = next - Duration::from_millis(1);
            assert_eq!(backoff.waits(&change, before), Some("refused"), "told all the while");
            assert_eq!(backoff.waits(&change, next), None);
            pauses.push((next - now).as_secs());
            now = next;
            assert!(!backoff.failed(&change, why(), now), "the same again is none");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.went(&change);
        assert!(backoff.waits(&change, now).is_none() && backoff.next().is_none());
        assert!(backoff.failed(&change, why(), now), "after that it is news again");
    }
}
