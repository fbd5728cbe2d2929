//! Whatever a capture says, the judge gives an answer, and the same one every time.

use keepline_core::{
    Options, Snapshot, judge,
    snapshot::{Entry, SecondLookResult},
};
use proptest::prelude::*;

use crate::build::*;

/// Few addresses and ports, so that they collide in every way.
fn endpoint() -> impl Strategy<Value = String> {
    (1u8..6, 1u16..5).prop_map(|(host, port)| format!("10.0.1.{host}:{port}"))
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (endpoint(), endpoint(), endpoint(), proptest::option::of(endpoint()), 0u64..2000);
    let one = one.prop_map(|(client, server, backend, seen_as, expires)| Entry {
        client: address(&client),
        server: address(&server),
        backend: address(&backend),
        seen_as: seen_as.as_deref().map(address),
        ..entry(expires)
    });
    proptest::collection::vec(one, 0..6)
}

prop_compose! {
    fn any_snapshot()(
        sockets in proptest::collection::vec((0usize..3, endpoint(), endpoint(), 0u64..2000), 0..12),
        ipvs in entries(),
        conntrack in entries(),
        swarm in any::<bool>(),
        confirmed in any::<bool>(),
    ) -> Snapshot {
        let mut snapshot = if swarm { crate::build::swarm(None) } else { nat(None) };
        for (at, (namespace, local, remote, idle)) in sockets.into_iter().enumerate() {
            let mut socket = socket(&local, &remote, idle);
            socket.cookie = 1000 + at as u64;
            snapshot.namespaces[namespace].sockets.push(socket);
        }
        if swarm {
            tables(&mut snapshot).entries = ipvs;
        }
        snapshot.namespaces[DIRECTOR].conntrack.as_mut().unwrap().entries = conntrack;
        if confirmed {
            look_again(&mut snapshot, SecondLookResult::Confirmed);
        }
        snapshot
    }
}

proptest! {
    #[test]
    fn every_snapshot_gets_one_answer(snapshot in any_snapshot()) {
        let options = Options::default();
        let first = judge(&snapshot, &options);
        let summary = first.summary;
        let counted = summary.safe + summary.at_risk + summary.orphaned + summary.untracked
            + summary.unknown;
        prop_assert_eq!(counted, first.sessions.len());
        prop_assert!(counted <= snapshot.sockets(), "no socket makes two sessions");
        let second = judge(&snapshot, &options);
        prop_assert_eq!(format!("{:?}", first.sessions), format!("{:?}", second.sessions));
        for finding in &first.findings {
            prop_assert!(!finding.fix.is_empty(), "{} has no fix", finding.code);
        }
    }

    #[test]
    fn captures_come_back_as_they_were(snapshot in any_snapshot()) {
        let mut file = Vec::new();
        snapshot.write(&mut file).unwrap();
        prop_assert_eq!(Snapshot::read(file.as_slice()).unwrap(), snapshot);
    }

    #[test]
    fn damaged_captures_are_refused_or_judged(
        snapshot in any_snapshot(), cut in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut file = Vec::new();
        snapshot.write(&mut file).unwrap();
        let at = cut.index(file.len());
        prop_assert!(Snapshot::read(&file[..at]).is_err(), "truncated");
        file[at] = byte;
        if let Ok(snapshot) = Snapshot::read(file.as_slice()) {
            let _ = judge(&snapshot, &Options::default());
        }
    }
}
