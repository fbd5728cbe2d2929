//! An Engine of a Swarm of one node on a socket, as far as `migrate` needs one: services whose
//! tasks run at once and stop at once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What the Engine has.
#[derive(Debug, Default)]
pub struct Swarm {
    /// Specs by id.
    pub services: BTreeMap<String, Value>,
    /// Requests that change something.
    pub changes: Vec<String>,
    /// `Swarm` of `/info`.
    pub info: Value,
    /// How often each was updated, by id.
    updates: BTreeMap<String, u64>,
    next: usize,
}

impl Swarm {
    /// A manager.
    pub fn manager() -> Self {
        let info = json!({"LocalNodeState": "active", "ControlAvailable": true});
        Self { info, ..Self::default() }
    }

    /// Adds a service.
    pub fn add(&mut self, spec: &Value) {
        self.next += 1;
        self.services.insert(format!("id{}", self.next), spec.clone());
    }

    /// The specs, by name.
    pub fn specs(&self) -> BTreeMap<String, Value> {
        let named =
            |spec: &Value| (spec["Name"].as_str().expect("a name").to_owned(), spec.clone());
        self.services.values().map(named).collect()
    }

    fn listed(&self) -> Vec<Value> {
        let listed = |(id, spec): (&String, &Value)| {
            let version = self.version(id);
            json!({"ID": id, "Version": {"Index": version}, "Spec": spec})
        };
        self.services.iter().map(listed).collect()
    }

    fn version(&self, id: &str) -> u64 {
        self.updates.get(id).copied().unwrap_or_default()
    }

    fn update(&mut self, id: &str, path: &str, body: &str) -> (u16, Value) {
        let version = self.version(id);
        if !path.ends_with(&format!("?version={version}")) {
            return (
                500,
                json!({"message": "rpc error: code = Unknown desc = update out of sequence"}),
            );
        }
        let spec = serde_json::from_str(body).expect("a spec");
        if self.services.insert(id.to_owned(), spec).is_none() {
            self.services.remove(id);
            return (404, json!({"message": "service not found"}));
        }
        self.updates.insert(id.to_owned(), version + 1);
        (200, json!({ "Warnings": null }))
    }

    /// Tasks whose name begins as the filter in `path` says.
    fn tasks(&self, path: &str) -> Vec<Value> {
        let wanted = path.split("%5B%22").nth(1).and_then(|rest| rest.split("%22").next());
        self.services
            .iter()
            .filter(|(id, spec)| {
                let name = format!("{}.1.task-{id}", spec["Name"].as_str().expect("a name"));
                wanted.is_none_or(|wanted| name.starts_with(wanted))
            })
            .map(|(id, _)| {
                json!({
                    "ID": format!("task-{id}"), "ServiceID": id, "NodeID": "node1",
                    "DesiredState": "running", "Status": {"State": "running"},
                })
            })
            .collect()
    }

    fn answer(&mut self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let route = path.split('?').next().unwrap_or(path);
        if method != "GET" {
            self.changes.push(format!("{method} {route}"));
        }
        match (method, route) {
            ("GET", "/info") => (200, json!({ "Swarm": self.info })),
            ("GET", "/services") => (200, self.listed().into()),
            ("GET", "/tasks") => (200, self.tasks(path).into()),
            ("GET", "/nodes") => {
                let node = json!({"ID": "node1", "Status": {"State": "ready"},
                    "Spec": {"Availability": "active"}});
                (200, json!([node]))
            }
            ("GET", "/networks") => {
                let network =
                    json!({"Id": "net1", "Name": "net1", "Driver": "overlay", "Scope": "swarm"});
                (200, json!([network]))
            }
            ("GET", "/networks/net1") => (200, json!({"Id": "net1", "Containers": {}})),
            ("GET", "/secrets" | "/configs") => (200, json!([])),
            ("POST", "/services/create") => {
                let spec: Value = serde_json::from_str(body).expect("a spec");
                if self.specs().contains_key(spec["Name"].as_str().expect("a name")) {
                    return (409, json!({"message": "name conflicts with an existing object"}));
                }
                self.add(&spec);
                (201, json!({ "ID": format!("id{}", self.next) }))
            }
            ("POST", _) if route.ends_with("/update") => {
                let id = route.trim_start_matches("/services/").trim_end_matches("/update");
                self.update(id, path, body)
            }
            ("DELETE", _) => match self.services.remove(route.trim_start_matches("/services/")) {
                Some(_) => (200, Value::Null),
                None => (404, json!({"message": "service not found"})),
            },
            _ => (404, json!({ "message": format!("no {path} here") })),
        }
    }
}

/// Serves `swarm` at `socket` until the test's process ends.
pub fn serve(socket: &Path, swarm: Swarm) -> Arc<Mutex<Swarm>> {
    let listener = UnixListener::bind(socket).expect("a socket can be made");
    let swarm = Arc::new(Mutex::new(swarm));
    let shared = Arc::clone(&swarm);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            converse(stream, &shared);
        }
    });
    swarm
}

fn converse(mut stream: UnixStream, swarm: &Mutex<Swarm>) {
    let mut input = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    let mut request = String::new();
    let mut length = 0;
    if input.read_line(&mut request).is_err() {
        return;
    }
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.trim().split_once(": ")
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    if input.read_exact(&mut body).is_err() {
        return;
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = String::from_utf8(body).expect("the program sends UTF-8");
    let (status, answer) = swarm.lock().expect("no test panics here").answer(method, path, &body);
    let answer = if answer.is_null() { String::new() } else { answer.to_string() };
    let length = answer.len();
    // The client may be gone.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} Word\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
    );
}
