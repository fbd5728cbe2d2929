//! Many clients whose silence is steered by the scenario (`crowd.py` runs them).

use std::time::Duration;

use crate::ground::{Ground, PATIENCE};
use crate::session::{From, Session, started};

/// Connections from a container or from a node itself; they end when dropped.
pub struct Crowd<'a> {
    ground: &'a Ground,
    node: u8,
    name: String,
    said: usize,
    /// How many servers they reached.
    pub backends: u32,
}

/// What became of a crowd's sessions at a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    pub survived: u32,
    pub lost: u32,
    /// Answered by another server than their own.
    pub strayed: u32,
}

impl<'a> Crowd<'a> {
    /// Connects `count` times to `target` (host and port), and exchanges one line each.
    pub fn open(ground: &'a Ground, node: u8, from: From<'_>, target: &str, count: u32) -> Self {
        Self::begin(ground, node, from, &format!("{target} {count}"), count)
    }

    /// The same where names and ports may not work yet, which is a while after tasks run.
    pub fn open_once_served(
        ground: &'a Ground,
        node: u8,
        from: From<'_>,
        target: &str,
        count: u32,
    ) -> Self {
        // This one is patient.
        drop(Session::open(ground, node, from, target));
        Self::open(ground, node, from, target, count)
    }

    /// The same as [`Self::open`], and as many clients more that ask every `every`.
    pub fn open_mixed(
        ground: &'a Ground,
        node: u8,
        from: From<'_>,
        target: &str,
        count: u32,
        every: Duration,
    ) -> Self {
        let arguments = format!("{target} {count} {count} {}", every.as_secs());
        Self::begin(ground, node, from, &arguments, count)
    }

    /// `arguments` are those of `crowd.py`.
    fn begin(ground: &'a Ground, node: u8, from: From<'_>, arguments: &str, count: u32) -> Self {
        let (name, said) = started(ground, node, from, "crowd.py", arguments);
        let words: Vec<_> = said.split_whitespace().collect();
        let ["connected", connected, backends] = words[..] else { panic!("{said}") };
        assert_eq!(connected, count.to_string());
        let backends = backends.parse().expect("a number");
        Self { ground, node, name, said: 1, backends }
    }

    /// Writes on every silent connection and waits for the answers.
    pub fn write(&mut self) -> Fate {
        self.order("write").0
    }

    /// What has become of the busy ones by now, and how many answers they got.
    pub fn busy(&mut self) -> (Fate, u32) {
        let (fate, asked) = self.order("busy");
        (fate, asked.expect("a number of answers"))
    }

    fn order(&mut self, order: &str) -> (Fate, Option<u32>) {
        self.said += 1;
        let script = format!(
            "cd {} && echo {order} >orders; wait_for awk 'END {{ exit NR < {} }}' said; tail -n 1 said",
            self.name, self.said
        );
        let said = self.ground.run(self.node, &script);
        let number = |word: &str| word.parse().expect("a number");
        let words: Vec<_> = said.split_whitespace().collect();
        let ["survived", survived, "lost", lost, "strayed", strayed, ref more @ ..] = words[..]
        else {
            panic!("{said}")
        };
        let fate =
            Fate { survived: number(survived), lost: number(lost), strayed: number(strayed) };
        (fate, more.get(1).map(|asked| number(asked)))
    }
}

impl Drop for Crowd<'_> {
    fn drop(&mut self) {
        // A scenario that fails has more to say than that its clients could not be ended.
        let script = format!("cd {} && ! grep -q ended said && echo close >orders", self.name);
        let _ = self.ground.node(self.node).sh_within(&script, PATIENCE);
    }
}
