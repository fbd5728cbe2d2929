//! A lab that is taken down with its owner, and the program that is tested.

use std::{
    path::Path,
    process::Command,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde_json::Value;

/// The program.
pub fn keepline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepline"));
    command.env("NO_COLOR", "1");
    command
}

/// Exit status, and what was printed on both streams.
pub fn output(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// What the program prints as JSON, whatever its exit status.
pub fn run_for_json(arguments: &[&str]) -> Value {
    let output = keepline().args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let text = String::from_utf8_lossy(&output.stderr);
        panic!("{arguments:?} printed no JSON ({error}): {text}")
    })
}

/// Why these tests cannot run here.
pub fn impossible() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    for tool in ["ip", "nft", "nsenter", "setpriv", "sysctl", "ss", "conntrack"] {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(tool).exists());
        if !found {
            return Some(format!("needs {tool}"));
        }
    }
    None
}

static TURN: RwLock<()> = RwLock::new(());

/// The right to this machine together with others who have it so.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// The right to this machine alone.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// A running lab of the nat layout.
pub struct Lab {
    id: String,
    pub client: String,
    pub director: String,
    pub client_pid: String,
}

impl Lab {
    pub fn up(name: &str, more: &[&str]) -> Self {
        let id = format!("{name}{}", std::process::id());
        let state =
            run_for_json(&[&["lab", "up", "nat", "--name", &id, "-o", "json"][..], more].concat());
        let text = |key: &str| state[key].as_str().unwrap().to_owned();
        Self {
            client: text("client_netns"),
            director: text("director_netns"),
            client_pid: state["clients"][0]["pid"].to_string(),
            id,
        }
    }

    /// Lets the clients write; what became of their sessions.
    pub fn write(&self) -> String {
        output(keepline().args(["lab", "write", "--name", &self.id])).1
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        output(keepline().args(["lab", "down", "--name", &self.id]));
    }
}
