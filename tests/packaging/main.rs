//! What packaging/ holds: the unit, the package, the files for containers, alerts and the dashboard, as far as they can be
//! tried without an Engine, a cluster or systemd as the first process.
//!
//! Each test needs the program whose files it checks. Where it is missing the test says SKIP and why; where CI is set it
//! fails instead. `scripts/install-missing test` installs all of them but docker.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

/// Leaves a test that cannot run here, aloud.
macro_rules! needs {
    ($($program:expr),+) => {
        for program in [$($program),+] {
            if let Some(why) = $crate::tools::missing(program) {
                assert!(std::env::var_os("CI").is_none(), "cannot run in CI: {why}");
                println!("SKIP: {why}");
                return;
            }
        }
    };
}

mod containers;
mod debian;
mod install;
mod launcher;
mod prometheus;
mod sandbox;
mod scripts;
mod tools;
mod unit;
