//! What `keepline check -o json` said, and what a scenario expects of a session in it.

use keepline_swarm_tests::Output;
use serde_json::Value;

use crate::ground::Container;

/// One run of `keepline check -o json`.
#[derive(Debug)]
pub struct Check {
    pub status: i32,
    pub json: Value,
    pub stderr: String,
}

impl Check {
    pub fn new(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        let json = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("status {status}, {error}: {stdout}{stderr}"));
        Self { status, json, stderr }
    }

    pub fn sessions(&self) -> &[Value] {
        self.json["sessions"].as_array().expect("sessions")
    }

    /// The one session of this client.
    pub fn session(&self, client: &str) -> &Value {
        let found: Vec<_> =
            self.sessions().iter().filter(|session| session["client"] == client).collect();
        assert_eq!(found.len(), 1, "sessions of {client} in {:#}", self.json);
        found[0]
    }

    /// The sessions with this verdict, as their clients.
    pub fn clients(&self, verdict: &str) -> Vec<&str> {
        let with_verdict = |session: &&Value| session["verdict"] == verdict;
        self.sessions()
            .iter()
            .filter(with_verdict)
            .map(|session| session["client"].as_str().expect("a client"))
            .collect()
    }
}

/// Everything about a session that does not change while it is silent.
#[derive(Debug)]
pub struct Expected<'a> {
    pub client: &'a str,
    pub server: &'a str,
    pub backend: &'a str,
    pub director: &'a str,
    pub network: &'a str,
    pub service: &'a str,
    /// The backend's container, and how its node is called.
    pub task: (&'a Container, &'a str),
    /// The container of the socket, where it is in one.
    pub container: Option<&'a Container>,
}

impl Expected<'_> {
    /// Compares, and gives the session for what else there is to say about it.
    pub fn seen_in<'c>(&self, check: &'c Check, verdict: &str) -> &'c Value {
        let session = check.session(self.client);
        self.way_is_right(session, verdict);
        let (task, node) = self.task;
        assert_eq!(session["backend"], self.backend, "{session:#}");
        assert_eq!(session["task"]["name"], task.name.as_str(), "{session:#}");
        assert_eq!(session["task"]["node"], node, "{session:#}");
        session
    }

    fn way_is_right(&self, session: &Value, verdict: &str) {
        for (key, expected) in [
            ("verdict", verdict),
            ("server", self.server),
            ("director", self.director),
            ("table", "ipvs"),
            ("network", self.network),
            ("service", self.service),
        ] {
            assert_eq!(session[key], expected, "{key} of {session:#}");
        }
        match self.container {
            Some(container) => {
                assert_eq!(session["container"]["id"], container.id.as_str(), "{session:#}");
                assert_eq!(session["container"]["name"], container.name.as_str(), "{session:#}");
            }
            None => assert!(session["container"].is_null(), "{session:#}"),
        }
    }
}

/// A number of a session.
pub fn number(session: &Value, key: &str) -> f64 {
    session[key].as_f64().unwrap_or_else(|| panic!("no {key}: {session:#}"))
}
