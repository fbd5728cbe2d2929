//! Looks at this machine once and says in a few lines what was there and how long it took.
//!
//! For measuring: `cargo run --release -p keepline-node --example observe [NETNS…]`.

use keepline_core::{Options, judge};
use keepline_node::{Owners, Select, observe};

/// Owners that a terminal could show.
const OWNERS: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let select = Select { netns: std::env::args().skip(1).collect(), ..Select::default() };
    let snapshot = observe(&select, Owners::MostUrgent(OWNERS))?;
    println!(
        "{} namespaces, {} sockets, {} entries, {} second looks in {:?}",
        snapshot.namespaces.len(),
        snapshot.sockets(),
        snapshot.entries(),
        snapshot.second_look.len(),
        snapshot.duration,
    );
    println!("{:?}", judge(&snapshot, &Options::default()).summary);
    for missed in &snapshot.incomplete {
        // Names are untrusted: Debug escapes them.
        println!("incomplete: {:?}: {:?} ({:?})", missed.what, missed.why, missed.help);
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("{peak}");
    }
    Ok(())
}
