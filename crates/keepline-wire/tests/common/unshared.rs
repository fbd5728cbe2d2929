//! Runs a test in a user and network namespace of its own.

use std::process::Command;

const INSIDE: &str = "KEEPLINE_TEST_INSIDE";

/// True inside the namespace, where the caller goes on with its test. Outside: runs the test
/// named `test` again, inside, and returns false. A test that prints a line with `unable` there
/// cannot run on this machine: it is skipped, aloud, and fails where CI is set.
pub fn inside(test: &str, unable: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("a test knows its own file");
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(program)
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .output();
    let why = match output {
        Err(error) => format!("unshare(1): {error}"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            match text.lines().find(|line| line.starts_with("unshare:") || line.contains(unable)) {
                Some(line) => line.to_owned(),
                None => {
                    assert!(output.status.success() && text.contains("1 passed"), "{text}");
                    return false;
                }
            }
        }
    };
    eprintln!("SKIP: {why}");
    assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
    false
}
