//! The field's own tools: whether they are there, and how they run inside a namespace.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::geteuid;

use crate::error::{LabError, io_error};
use crate::layout::{Layout, Script};

/// Searched after PATH: on Debian the PATH of a plain `su` lacks these.
const SYSTEM_PATHS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Capabilities that making namespaces and networks takes: bit and name,
/// include/uapi/linux/capability.h.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Where a tool is, or `None` when it is not installed.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_PATHS.iter().map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|file| file.is_file())
}

/// The Debian package of a tool; other distributions use the same names or nearly so.
fn package(tool: &str) -> &str {
    match tool {
        "ip" => "iproute2",
        "nft" => "nftables",
        other => other,
    }
}

/// Whether the kernel has IPVS; tries to load the module.
pub(crate) fn kernel_has_ipvs() -> bool {
    let there = || Path::new("/proc/net/ip_vs").exists();
    if !there()
        && let Some(modprobe) = find("modprobe")
    {
        // Its failure shows in the file's absence.
        let _ = Command::new(modprobe)
            .args(["-q", "ip_vs"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    there()
}

/// Checks that a layout can be set up here.
///
/// # Errors
/// [`LabError::Missing`] for the first of: rights, tools (all of them at once), IPVS.
pub(crate) fn require(layout: Layout) -> Result<(), LabError> {
    let missing = |what: String, way_out: String| Err(LabError::Missing { what, way_out });
    if !geteuid().is_root() {
        return missing("root (it makes network namespaces)".into(), "run it with sudo".into());
    }
    let status =
        fs::read_to_string("/proc/self/status").map_err(io_error("read /proc/self/status"))?;
    let lacking: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective(&status).is_some_and(|mask| mask & (1 << bit) == 0))
        .map(|(_, name)| *name)
        .collect();
    if !lacking.is_empty() {
        return missing(
            lacking.join(" and "),
            "run it on the host itself or in a privileged container".into(),
        );
    }
    let tools: Vec<&str> =
        layout.tools().iter().copied().filter(|tool| find(tool).is_none()).collect();
    if !tools.is_empty() {
        let names: Vec<String> = tools.iter().map(|tool| format!("`{tool}`")).collect();
        let packages: Vec<&str> = tools.iter().map(|tool| package(tool)).collect();
        return missing(names.join(" and "), format!("apt-get install {}", packages.join(" ")));
    }
    if layout.uses_ipvs() && !kernel_has_ipvs() {
        return missing(
            format!("IPVS in the kernel for the layout {layout}"),
            format!("load the module ip_vs, or choose the layout {}", Layout::Nat),
        );
    }
    Ok(())
}

/// The mask of effective capabilities in the text of `/proc/<pid>/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// PATH for the tools' children.
fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    let mut paths: Vec<&str> = own.split(':').filter(|path| !path.is_empty()).collect();
    paths.extend(SYSTEM_PATHS);
    paths.join(":")
}

/// `ip`, kept away from the terminal's Ctrl-C: it also serves the cleaning up after one.
fn ip() -> Command {
    let mut command = Command::new(find("ip").unwrap_or_else(|| "ip".into()));
    command.env("PATH", search_path()).stdin(Stdio::null()).process_group(0);
    command
}

/// A command that runs `program` inside a namespace.
pub(crate) fn inside(netns: &str, program: &Path) -> Command {
    let mut command = Command::new(find("ip").unwrap_or_else(|| "ip".into()));
    command.env("PATH", search_path()).args(["netns", "exec", netns]).arg(program);
    command
}

/// Whether a namespace of that name exists.
pub(crate) fn namespace_exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

/// Makes a namespace.
pub(crate) fn add_namespace(name: &str) -> Result<(), LabError> {
    run(name, &format!("ip netns add {name}"), ip().args(["netns", "add", name]))
}

/// Removes a namespace.
pub(crate) fn delete_namespace(name: &str) -> Result<(), LabError> {
    run(name, &format!("ip netns delete {name}"), ip().args(["netns", "delete", name]))
}

fn run(netns: &str, what: &str, command: &mut Command) -> Result<(), LabError> {
    let output = command.output().map_err(io_error(format!("run `{what}`")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Setup { netns: netns.to_owned(), command: what.to_owned(), message })
}

/// Runs a script inside its namespace; it stops at the first command that fails.
///
/// # Errors
/// [`LabError::Setup`] with that command and what the tool said.
pub(crate) fn run_script(script: &Script) -> Result<(), LabError> {
    let what = || format!("run a shell in {}", script.netns);
    let mut child = inside(&script.netns, Path::new("/bin/sh"))
        .arg("-ex")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(io_error(what()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A shell that stopped early has said why on its standard error.
        let _ = stdin.write_all(script.commands.as_bytes());
    }
    let output = child.wait_with_output().map_err(io_error(what()))?;
    if output.status.success() { Ok(()) } else { Err(explain(script, &output)) }
}

/// Finds the failed command in the trace of `sh -x` and what was said about it.
fn explain(script: &Script, output: &Output) -> LabError {
    let trace = String::from_utf8_lossy(&output.stderr);
    let mut command = "sh";
    let mut said = Vec::new();
    for line in trace.lines() {
        if let Some(traced) = line.strip_prefix("+ ") {
            command = traced;
            said.clear();
        } else {
            said.push(line.trim());
        }
    }
    let message = if said.is_empty() { output.status.to_string() } else { said.join("; ") };
    LabError::Setup { netns: script.netns.clone(), command: command.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn an_error_names_the_command_that_failed() {
        let script = Script { netns: "kl-t-lb".to_owned(), commands: String::new() };
        let output = Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: Vec::new(),
            stderr: b"+ ip link set lo up\n+ ipvsadm -A -f 256 -s rr\nCan't initialize ipvs\n"
                .to_vec(),
        };
        assert_eq!(
            explain(&script, &output).to_string(),
            "set up kl-t-lb: `ipvsadm -A -f 256 -s rr`: Can't initialize ipvs"
        );
    }

    #[test]
    fn a_tool_that_is_not_there_is_not_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-tool-of-keepline").is_none());
    }
}
