//! Published ports: through the host's translation and `ingress_sbox` to the task.

use crate::check::{Expected, number};
use crate::ground::{Container, Ground};
use crate::scenario;
use crate::session::{From::Host, Session};

const DIRECTOR: &str = "ingress_sbox";
const TIMEOUT: u32 = 60;
const SHORT: u32 = 5;
/// How far a countdown may lie outside of what `ipvsadm` said just before and just after.
const TOLERANCE: f64 = 2.0;

/// A service on node1 with a port that every node takes.
fn publish(ground: &Ground) {
    ground.service("web", "--constraint node.hostname==node1 --publish 8081:7000");
}

/// A session from a node to the port of node1, and the task that answers.
fn opened(ground: &Ground, node: u8) -> (Container, Session<'_>) {
    publish(ground);
    let server = ground.container(1, "web");
    ground.set_timeout(1, DIRECTOR, TIMEOUT);
    let session = Session::open(ground, node, Host, "192.168.77.1 8081");
    assert_eq!(session.backend, server.id[..12]);
    (server, session)
}

/// What is to be seen of it: client, server and backend, the task, and whose socket it is seen by.
fn expected<'a>(
    [client, server, backend]: [&'a str; 3],
    task: &'a Container,
    container: Option<&'a Container>,
) -> Expected<'a> {
    let (network, service) = ("ingress", "web");
    let task = (task, "node1");
    Expected { client, server, backend, director: DIRECTOR, network, service, task, container }
}

fn countdown_is_right(ground: &Ground, expected: &Expected<'_>) {
    let before = ground.left(1, DIRECTOR, expected.client).expect("an entry");
    let check = ground.check(1, "");
    let after = ground.left(1, DIRECTOR, expected.client).expect("an entry");
    let seen = expected.seen_in(&check, "at-risk");
    let left = number(seen, "orphaned_in_seconds");
    assert!(
        (after - TOLERANCE..=before + TOLERANCE).contains(&left),
        "{left} s left; ipvsadm said {before} before and {after} after"
    );
    assert_eq!(check.status, 0, "{:#}", check.json);
}

scenario! {
    fn a_published_port_with_its_client_on_the_host(ground) {
        let (server, mut session) = opened(ground, 1);
        let (client, address) = (session.client.clone(), session.server.clone());
        let backend = backend(ground, &client);
        let ways = [client.as_str(), &address, &backend];
        let expected = expected(ways, &server, None);
        countdown_is_right(ground, &expected);

        ground.set_timeout(1, DIRECTOR, SHORT);
        assert_eq!(session.write(), "survived");
        ground.wait_forgotten(1, DIRECTOR, &client);
        let check = ground.check(1, "");
        let seen = expected.seen_in(&check, "orphaned");
        assert_eq!(seen["findings"], serde_json::json!(["KL001"]), "{seen:#}");
        assert_eq!(check.status, 1);
        assert_eq!(session.write(), "lost ConnectionResetError");
    }
}

scenario! {
    /// No socket of the client is on this machine: the task's and the entries must do.
    fn a_published_port_with_its_client_outside(ground) {
        let (server, mut session) = opened(ground, 2);
        let (client, address) = (session.client.clone(), session.server.clone());
        let backend = backend(ground, &client);
        let ways = [client.as_str(), &address, &backend];
        let expected = expected(ways, &server, Some(&server));
        countdown_is_right(ground, &expected);

        ground.set_timeout(1, DIRECTOR, SHORT);
        assert_eq!(session.write(), "survived");
        ground.wait_forgotten(1, DIRECTOR, &client);
        let check = ground.check(1, "");
        // Who the client was only its port tells now.
        let port = client.rsplit(':').next().expect("a port");
        let found: Vec<_> = check
            .sessions()
            .iter()
            .filter(|it| it["client"].as_str().is_some_and(|it| it.ends_with(&format!(":{port}"))))
            .collect();
        let [seen] = found[..] else { panic!("{} sessions of :{port}: {:#}", found.len(), check.json) };
        assert_eq!(seen["verdict"], "orphaned", "{seen:#}");
        assert_eq!(seen["director"], DIRECTOR, "{seen:#}");
        assert_eq!((&seen["network"], &seen["service"]), (&"ingress".into(), &"web".into()), "{seen:#}");
        assert_eq!(seen["task"]["name"], server.name.as_str(), "{seen:#}");
        assert_eq!(seen["container"]["name"], server.name.as_str(), "{seen:#}");
        assert_eq!(check.status, 1);
        assert_eq!(session.write(), "lost ConnectionResetError");
    }
}

scenario! {
    /// The client came in by another node, whose director this one cannot see. What this node has
    /// (a socket, and the task's own redirection of the port) does not tell how long that lasts.
    fn a_published_port_entered_by_another_node_is_not_called_safe(ground) {
        publish(ground);
        let session = Session::open(ground, 1, Host, "192.168.77.2 8081");
        let there = ground.entries(2, DIRECTOR);
        assert!(there.iter().any(|(entry, _)| entry.client == session.client), "{there:?}");
        assert_eq!(ground.left(1, DIRECTOR, &session.client), None);
        let check = ground.check(1, "--all");
        let port = session.client.rsplit(':').next().expect("a port");
        for seen in check.sessions() {
            if seen["client"].as_str().is_some_and(|it| it.ends_with(&format!(":{port}"))) {
                assert!(seen["verdict"] == "untracked" || seen["verdict"] == "unknown", "{seen:#}");
            }
        }
    }
}

/// The backend's own address: the task's on the ingress network, with the port that it listens on.
fn backend(ground: &Ground, client: &str) -> String {
    let entries = ground.entries(1, DIRECTOR);
    let port = client.rsplit(':').next().expect("a port");
    let of_client = |address: &str| address.rsplit(':').next() == Some(port);
    let (entry, _) = entries.iter().find(|(it, _)| of_client(&it.client)).expect("an entry");
    // IPVS sends to the published port; the task's namespace turns that into its own.
    let (address, published) = entry.backend.rsplit_once(':').expect("a port");
    assert_eq!(published, "8081");
    format!("{address}:7000")
}
