//! May the tests run here at all?

use std::path::Path;
use std::process::Command;

/// Says whether the calling test must be skipped because this machine cannot boot guests, and
/// why on stderr. `name` is the test's name.
///
/// # Panics
/// With `CI` set in the environment: there, a skipped test is a failed one.
#[must_use]
pub fn skip(name: &str) -> bool {
    let Err(why) = can_run() else { return false };
    assert!(std::env::var_os("CI").is_none(), "{name} cannot run and CI is set: {why}");
    eprintln!("SKIP: {name}: {why}");
    true
}

fn can_run() -> Result<(), &'static str> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        return Err("guests need an amd64 Linux machine");
    }
    let id = Command::new("id").arg("-u").output();
    if !id.is_ok_and(|id| id.stdout == b"0\n") {
        return Err("building and booting guests needs root");
    }
    // build-image.sh installs QEMU itself where there is apt.
    if !on_path("qemu-system-x86_64") && !on_path("apt-get") {
        return Err("no qemu-system-x86_64, and no apt-get to install it with");
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}
