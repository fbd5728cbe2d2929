//! Running the program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What came of a run.
pub struct Ran {
    /// Exit status. None is a signal: a panic aborts the release binary.
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

/// The program, cut off from the terminal and the environment of whoever runs the tests.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepline"));
    command.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    command
}

/// Runs it.
pub fn keepline(arguments: &[&str]) -> Ran {
    let output = program().args(arguments).output().expect("the program starts");
    ran(output)
}

/// Runs it with `input` on stdin.
pub fn with_input(arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = program()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It may stop reading early: that is its right.
    let _ = child.stdin.take().expect("stdin is a pipe").write_all(input);
    ran(child.wait_with_output().expect("the program ends"))
}

/// What came of a run that was started otherwise.
pub fn ran(output: std::process::Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Ran { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cli")
}

/// Path of a recorded snapshot.
pub fn capture(name: &str) -> String {
    here().join(format!("captures/{name}.json")).display().to_string()
}

/// A recorded snapshot as JSON, to be changed.
pub fn captured(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(capture(name)).expect("the capture is there");
    serde_json::from_str(&text).expect("the capture is JSON")
}

/// Every recorded snapshot.
pub const CAPTURES: [&str; 9] = [
    "at-risk",
    "at-risk-incomplete",
    "clean",
    "hostile",
    "incomplete",
    "ipv6",
    "named",
    "none",
    "swarm",
];

/// `check` on a recorded snapshot.
pub fn check(name: &str, arguments: &[&str]) -> Ran {
    let file = capture(name);
    keepline(&[&["check", "--from", &file], arguments].concat())
}

/// Compares with a file in `expected/`.
pub fn expect(name: &str, actual: &str) {
    let file = here().join("expected").join(name);
    let expected = snapbox::Data::read_from(&file, Some(snapbox::data::DataFormat::Text)).raw();
    snapbox::Assert::new()
        .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
        .eq(snapbox::Data::text(actual), expected);
}

/// An empty folder for one test.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}
