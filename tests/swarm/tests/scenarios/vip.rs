//! Sessions to the VIP of a service: their whole life, on one node and across two.

use crate::check::{Check, Expected, number};
use crate::ground::Ground;
use crate::scenario;
use crate::session::{From::Container, Session};

/// A lifetime long enough for a few looks in slow guests.
const LONG: u32 = 60;
/// One to wait for.
const SHORT: u32 = 5;
/// How far a countdown may lie outside of what `ipvsadm` said just before and just after.
const TOLERANCE: f64 = 2.0;

scenario! {
    /// The proving ground itself, without Keepline.
    fn a_service_answers_over_its_vip_across_nodes(ground) {
        let nodes = ground.run(1, "docker node ls --format '{{.Status}}'");
        assert_eq!(nodes, "Ready\nReady\n");
        let mut session = Session::open(ground, 1, Container("app"), "far 7000");
        // The host name of a container is its id.
        assert_eq!(session.backend, ground.container(2, "far").id[..12]);
        let director = ground.director();
        let services = ground.in_director(1, &director, "ipvsadm -Sn");
        let vip = services.lines().find(|line| line.starts_with("-A -f ")).unwrap_or_default();
        assert!(vip.ends_with(" -s rr"), "{services}");
        let entries = ground.entries(1, &director);
        let (entry, _) = entries.iter().find(|(it, _)| it.client == session.client).expect("an entry");
        assert_eq!((&entry.server, entry.state.as_str()), (&session.server, "ESTABLISHED"));
        assert_eq!(session.write(), "survived");
    }
}

scenario! {
    fn a_session_to_a_vip_is_safe_then_at_risk_then_orphaned(ground) {
        from_safe_to_orphaned(ground, &Way { node: 1, from: "app", to: "db", on: 1, called: "node1" });
    }
}

scenario! {
    fn a_backend_on_the_other_node_as_the_manager_sees_it(ground) {
        from_safe_to_orphaned(ground, &Way { node: 1, from: "app", to: "far", on: 2, called: "node2" });
    }
}

scenario! {
    /// A worker knows the addresses of other nodes, not their names.
    fn a_backend_on_the_other_node_as_a_worker_sees_it(ground) {
        let called = "192.168.77.1";
        from_safe_to_orphaned(ground, &Way { node: 2, from: "far", to: "db", on: 1, called });
    }
}

/// From which service on which node to which service on which.
struct Way {
    node: u8,
    from: &'static str,
    to: &'static str,
    on: u8,
    /// What the client's node calls the backend's.
    called: &'static str,
}

fn from_safe_to_orphaned(ground: &Ground, way: &Way) {
    let director = ground.director();
    let client = ground.container(way.node, way.from);
    let server = ground.container(way.on, way.to);
    ground.set_timeout(way.node, &director, LONG);
    let to = format!("{} 7000", way.to);
    let mut session = Session::open(ground, way.node, Container(way.from), &to);
    let (address, vip) = (session.client.clone(), session.server.clone());
    assert_eq!(session.backend, server.id[..12]);
    let entries = ground.entries(way.node, &director);
    let (entry, _) = entries.iter().find(|(entry, _)| entry.client == address).expect("an entry");
    assert_eq!(entry.server, vip);
    let expected = Expected {
        client: &address,
        server: &vip,
        backend: &entry.backend,
        director: &director,
        network: "net1",
        service: way.to,
        task: (&server, way.called),
        container: Some(&client),
    };

    // Safe, as the loss is beyond the horizon; nothing to fail on.
    session.write();
    let check = ground.check(way.node, "--horizon 5s --fail-on at-risk");
    expected.seen_in(&check, "safe");
    assert_eq!(check.status, 0, "{:#}", check.json);

    // At risk, with the time that `ipvsadm` tells.
    assert_eq!(session.write(), "survived");
    let before = ground.left(way.node, &director, &address).expect("an entry");
    let check = ground.check(way.node, "");
    let after = ground.left(way.node, &director, &address).expect("an entry");
    let seen = expected.seen_in(&check, "at-risk");
    let left = number(seen, "orphaned_in_seconds");
    assert!(
        (after - TOLERANCE..=before + TOLERANCE).contains(&left),
        "{left} s left; ipvsadm said {before} before and {after} after"
    );
    assert_eq!(number(&seen["entry"], "timeout_seconds"), f64::from(LONG), "{seen:#}");
    assert_eq!(seen["findings"], serde_json::json!(["KL002"]), "{seen:#}");
    assert_eq!(check.status, 0, "{:#}", check.json);
    session.write();
    let check = ground.check(way.node, "--fail-on at-risk");
    expected.seen_in(&check, "at-risk");
    assert_eq!(check.status, 1, "{:#}", check.json);
    no_orphan_here(&other_node(ground, way), &address);

    // Orphaned, once `ipvsadm` has no entry.
    ground.set_timeout(way.node, &director, SHORT);
    assert_eq!(session.write(), "survived");
    ground.wait_forgotten(way.node, &director, &address);
    let check = ground.check(way.node, "");
    let seen = expected.seen_in(&check, "orphaned");
    assert!(seen["entry"].is_null() && seen["orphaned_in_seconds"].is_null(), "{seen:#}");
    assert!(number(seen, "idle_seconds") >= f64::from(SHORT), "{seen:#}");
    assert_eq!(seen["findings"], serde_json::json!(["KL001"]), "{seen:#}");
    assert_eq!(check.status, 1, "{:#}", check.json);
    // The other node has the backend at the most, and its own director never had the entry.
    no_orphan_here(&other_node(ground, way), &address);
    assert_eq!(session.write(), "lost ConnectionResetError");
}

fn other_node(ground: &Ground, way: &Way) -> Check {
    ground.check(3 - way.node, "--all")
}

/// A node through whose director a session does not go must not call it orphaned.
fn no_orphan_here(check: &Check, client: &str) {
    let port = client.rsplit(':').next().expect("a port");
    for session in check.sessions() {
        let of_client =
            |key: &str| session[key].as_str().is_some_and(|it| it.rsplit(':').next() == Some(port));
        if of_client("client") || of_client("server") || of_client("backend") {
            assert_ne!(session["verdict"], "orphaned", "{session:#}");
        }
    }
    assert_eq!(check.status, 0, "{:#}", check.json);
}

scenario! {
    /// `ipvsadm --set` reaches an entry with its next packet only: until then a session keeps the
    /// lifetime that it had, and is not safe because the namespace's timeout is longer now.
    fn a_raised_timeout_does_not_reach_a_silent_session(ground) {
        let director = ground.director();
        ground.set_timeout(1, &director, LONG);
        let session = Session::open(ground, 1, Container("app"), "db 7000");
        ground.set_timeout(1, &director, 7200);
        let before = ground.left(1, &director, &session.client).expect("an entry");
        let check = ground.check(1, "");
        let after = ground.left(1, &director, &session.client).expect("an entry");
        let seen = check.session(&session.client);
        assert_eq!(seen["verdict"], "at-risk", "{seen:#}");
        let left = number(seen, "orphaned_in_seconds");
        assert!(
            (after - TOLERANCE..=before + TOLERANCE).contains(&left),
            "{left} s left; ipvsadm said {before} before and {after} after: {seen:#}"
        );
    }
}

scenario! {
    /// Keepalive that comes in time, and keepalive that comes too late.
    fn keepalive_below_the_timeout_survives_and_above_is_lost(ground) {
        let director = ground.director();
        ground.set_timeout(1, &director, LONG);
        let mut early = Session::open(ground, 1, Container("app"), "db 7000 5");
        let mut late = Session::open(ground, 1, Container("app"), "db 7000 600");

        assert_eq!(late.write(), "survived");
        let check = ground.check(1, "");
        let seen = check.session(&early.client);
        assert_eq!(seen["verdict"], "safe", "{seen:#}");
        assert_eq!(seen["keepalive"]["enabled"], true, "{seen:#}");
        assert_eq!(seen["keepalive"]["idle_seconds"], 5.0, "{seen:#}");
        let seen = check.session(&late.client);
        assert_eq!(seen["verdict"], "at-risk", "{seen:#}");
        assert_eq!(seen["keepalive"]["idle_seconds"], 600.0, "{seen:#}");
        assert_eq!(seen["findings"], serde_json::json!(["KL003"]), "{seen:#}");

        // Both are silent for longer than the timeout.
        ground.set_timeout(1, &director, 15);
        assert_eq!((early.write(), late.write()), ("survived".into(), "survived".into()));
        ground.wait_forgotten(1, &director, &late.client);
        let check = ground.check(1, "");
        assert_eq!(check.session(&early.client)["verdict"], "safe", "{:#}", check.json);
        assert_eq!(check.clients("orphaned"), [late.client.as_str()], "{:#}", check.json);
        assert_eq!(early.write(), "survived");
        assert_eq!(late.write(), "lost ConnectionResetError");
    }
}

scenario! {
    /// The reason why the article does not help today: since Engine 18.09 the entry lives in the
    /// director, and the client's namespace has one of its own that lives for five days.
    fn the_articles_pipeline_finds_nothing_and_keepline_finds_it(ground) {
        let director = ground.director();
        ground.set_timeout(1, &director, SHORT);
        let mut session = Session::open(ground, 1, Container("app"), "db 7000");
        ground.wait_forgotten(1, &director, &session.client);
        let client = ground.container(1, "app");
        let here = format!("nsenter --net --target {}", ground.pid(1, &client));

        let sockets = ground.run(1, &format!("{here} ss -Htn state established"));
        assert!(sockets.contains(&format!(" {} ", session.client)), "{sockets}");
        assert_eq!(ground.run(1, &format!("{here} bash /payload/article.sh")), "");
        let port = session.client.rsplit(':').next().expect("a port");
        let entries = ground.run(1, &format!("{here} conntrack -L -p tcp --sport {port}"));
        assert!(entries.contains(" ESTABLISHED "), "{entries}");

        let check = ground.check(1, "");
        assert_eq!(check.session(&session.client)["verdict"], "orphaned", "{:#}", check.json);
        assert_eq!(check.status, 1);
        assert_eq!(session.write(), "lost ConnectionResetError");
    }
}
