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
    failures: BTreeMap<String, (u32, Instant)>,
}

impl Backoff {
    /// Whether a change is to be tried now.
    pub(crate) fn due(&self, change: &Change, now: Instant) -> bool {
        self.failures.get(&key(change)).is_none_or(|(_, again)| *again <= now)
    }

    /// What came of it; whether that is news.
    pub(crate) fn came(&mut self, change: &Change, well: bool, now: Instant) -> bool {
        let key = key(change);
        if well {
            return self.failures.remove(&key).is_some();
        }
        let longest = match change.what {
            What::Entries { .. } => LONGEST_OF_ENTRIES,
            _ => LONGEST,
        };
        let (times, again) = self.failures.entry(key).or_insert((0, now));
        let pause = Duration::from_secs(1 << (*times).min(6)).min(longest);
        *times += 1;
        *again = now + pause;
        *times == 1
    }

    /// When the next is due again.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.failures.values().map(|(_, again)| *again).min()
    }

    /// Forgets what no longer is there to be changed.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.failures.retain(|_, (_, again)| *again + LONGEST > now);
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
        assert!(backoff.due(&change, now));
        assert!(backoff.came(&change, false, now), "the first failure is news");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let next = backoff.next().unwrap();
            assert!(!backoff.due(&change, next - Duration::from_millis(1)));
            assert!(backoff.due(&change, next));
            pauses.push((next - now).as_secs());
            now = next;
            assert!(!backoff.came(&change, false, now), "the same again is none");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(backoff.came(&change, true, now), "that it goes again is");
        assert!(backoff.due(&change, now) && backoff.next().is_none());
    }
}
