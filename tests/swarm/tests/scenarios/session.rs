//! A client whose silence is steered by the scenario (`session.py` runs it).

use crate::ground::{Ground, PATIENCE};

/// One connection from a container or from a node itself; it ends when dropped.
pub struct Session<'a> {
    ground: &'a Ground,
    node: u8,
    name: String,
    /// Address and port of the client, as its socket says.
    pub client: String,
    /// What it is connected to.
    pub server: String,
    /// The host name of the server: the beginning of its container's id.
    pub backend: String,
    said: usize,
}

/// Where a client runs.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// In the one container of this service.
    Container(&'a str),
    /// On the node itself.
    Host,
}

/// Starts a script of clients that obeys what is written to its `orders`; gives its directory and what
/// it said first.
pub fn started(
    ground: &Ground,
    node: u8,
    from: From<'_>,
    script: &str,
    arguments: &str,
) -> (String, String) {
    let program = match from {
        From::Container(service) => {
            format!(r#"inside {service} python3 -c "$(cat /payload/{script})""#)
        }
        From::Host => format!("python3 /payload/{script}"),
    };
    // Read and write: the client must not see an end of file before the scenario wants it.
    let said = ground.run(
        node,
        &format!(
            r#"mkdir -p /run/sessions; cd "$(mktemp -d -p /run/sessions)"; mkfifo orders
               {{ {program} {arguments} <>orders >said 2>&1; echo ended >>said; }} &
               wait_for grep -q . said; pwd; cat said"#
        ),
    );
    let (name, said) = said.split_once('\n').expect("a directory and a line");
    (name.to_owned(), said.to_owned())
}

impl<'a> Session<'a> {
    /// Connects and exchanges one line. `arguments` are those of `session.py`.
    pub fn open(ground: &'a Ground, node: u8, from: From<'_>, arguments: &str) -> Self {
        let (name, said) = started(ground, node, from, "session.py", arguments);
        let words: Vec<_> = said.split_whitespace().collect();
        let ["connected", client, server, backend] = words[..] else { panic!("{said}") };
        Self {
            ground,
            node,
            name,
            client: client.into(),
            server: server.into(),
            backend: backend.into(),
            said: 1,
        }
    }

    /// Writes on the connection and waits for the answer: `survived`, or `lost` and why.
    pub fn write(&mut self) -> String {
        self.said += 1;
        let script = format!(
            "cd {} && echo write >orders; wait_for awk 'END {{ exit NR < {} }}' said; tail -n 1 said",
            self.name, self.said
        );
        self.ground.run(self.node, &script).trim().into()
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // A scenario that fails has more to say than that its client could not be ended.
        let script = format!("cd {} && ! grep -q ended said && echo close >orders", self.name);
        let _ = self.ground.node(self.node).sh_within(&script, PATIENCE);
    }
}
