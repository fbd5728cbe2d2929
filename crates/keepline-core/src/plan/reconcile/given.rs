//! Sockets that have been given keepalive, where their programs may choose otherwise after that.

use std::collections::BTreeMap;

use super::super::{Change, KeepaliveChange, KeepaliveRules, Plan, What};
use crate::snapshot::KeepaliveSettings;

/// Sockets that have been given their keepalive: where nobody is held to it, what such a socket has
/// now its program has chosen since.
pub(super) struct Given<'a> {
    /// Once they were open, by the journal.
    pub(super) open: BTreeMap<u64, KeepaliveSettings>,
    /// When they were made, by these rules.
    pub(super) known: Option<&'a KeepaliveRules>,
    /// What the rules shall be.
    pub(super) rules: &'a KeepaliveRules,
}

impl Given<'_> {
    /// Whether it was given what it would be given now.
    fn has_been(&self, netns: Option<u64>, change: &KeepaliveChange) -> bool {
        let KeepaliveChange { socket, after, .. } = change;
        let by = |rules: &KeepaliveRules| rules.times_of(netns, socket.remote.ip());
        let as_made = self.known.and_then(by);
        self.open.get(&socket.cookie) == Some(after)
            || as_made.is_some() && as_made == by(self.rules)
    }

    pub(super) fn left_out_of(&self, plan: &mut Plan) {
        plan.changes.retain_mut(|Change { place, what }| {
            let What::Keepalive { sockets } = what else { return true };
            sockets.retain(|it| !self.has_been(place.cookie, it));
            !sockets.is_empty()
        });
    }
}
