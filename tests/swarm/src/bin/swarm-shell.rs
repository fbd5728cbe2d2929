//! Boots guests and gives a line shell on them, or runs a script in the first.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use keepline_swarm_tests::{Guests, Output};

/// Boots Debian guests with IPVS and Docker, and gives a shell on them.
///
/// Each line runs as bash in node 1, or in node N when it begins with "@N". The directory is
/// kept from line to line, variables are not. The guests end with the shell.
#[derive(Debug, Parser)]
#[command(name = "swarm-shell")]
struct Args {
    /// How many guests.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Start Docker everywhere and make one Swarm of all.
    #[arg(long)]
    swarm: bool,
    /// A directory that all guests can read as /payload; programs in it are found by name.
    #[arg(long, value_name = "DIR", overrides_with = "payload")]
    payload: Option<PathBuf>,
    /// How long a line or the script may run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// A local file to run in node 1 instead of the shell; its status becomes ours.
    script: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let limit = Duration::from_secs(args.timeout);
    let script = args
        .script
        .map(|path| {
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        })
        .transpose()?;
    eprintln!("booting {} (half a minute without hardware virtualisation)", args.nodes);
    let guests = Guests::boot(args.nodes, args.payload.as_deref())?;
    if args.swarm {
        eprintln!("starting Docker and forming the Swarm (half a minute more)");
        guests.swarm()?;
    }
    if let Some(script) = script {
        let output = guests.node(1).sh_within(&script, limit)?;
        show(&output)?;
        return Ok(ExitCode::from(u8::try_from(output.status).unwrap_or(1)));
    }
    let terminal = std::io::stdin().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            eprint!("node1# ");
        }
        let Some(line) = lines.next().transpose()? else { break };
        let Some((node, command)) = addressed(&line, args.nodes) else {
            eprintln!("there are nodes 1 to {}", args.nodes);
            continue;
        };
        if command == "exit" {
            break;
        }
        // A failed line must not end the session.
        match guests.node(node).sh_within(&in_last_directory(command), limit) {
            Ok(output) => {
                show(&output)?;
                if output.status != 0 {
                    eprintln!("(exit status {})", output.status);
                }
            }
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Splits "@2 command" into node and command; `None` when there is no such node.
fn addressed(line: &str, nodes: u8) -> Option<(u8, &str)> {
    let line = line.trim();
    let Some(rest) = line.strip_prefix('@') else { return Some((1, line)) };
    let (node, command) = rest.split_once(' ').unwrap_or((rest, ""));
    let node = node.parse().ok().filter(|node| (1..=nodes).contains(node))?;
    Some((node, command.trim()))
}

/// Each line is a bash of its own: takes the directory along from one to the next.
fn in_last_directory(command: &str) -> String {
    format!(
        "PATH=$PATH:/payload\ntrap 'pwd >/run/shell-directory' EXIT\ncd \"$(cat /run/shell-directory 2>/dev/null || pwd)\"\n{command}\n"
    )
}

fn show(output: &Output) -> anyhow::Result<()> {
    std::io::stdout().write_all(output.stdout.as_bytes())?;
    std::io::stdout().flush()?;
    std::io::stderr().write_all(output.stderr.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::addressed;

    #[test]
    fn a_line_names_its_node_or_means_the_first() {
        assert_eq!(addressed("ip addr", 2), Some((1, "ip addr")));
        assert_eq!(addressed("@2 ip addr ", 2), Some((2, "ip addr")));
        assert_eq!(addressed("@3 ip addr", 2), None);
        assert_eq!(addressed("@0 ip addr", 2), None);
        assert_eq!(addressed("@x", 2), None);
        assert_eq!(addressed("", 2), Some((1, "")));
    }
}
