//! The same service on several ways, in one run: `scripts/bench paths` runs it as root.
//!
//! Ratios are told, no time is asserted. Many short rounds, in an order that changes from one to the
//! next, and of each way the best round counts: the one that the rest of the machine has disturbed
//! least. ROUNDS (25), MILLIS (100) for each measurement, HAPROXY (`haproxy`).

mod ground;
mod load;
mod table;
mod ways;

#[path = "../../tests/common/foreign.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with the tests, which use more of it")]
mod foreign;

use std::{env, process::ExitCode, time::Duration};

use foreign::{Foreign, Statistics};
use keepline_bpf::{Direct, Hook, Keepalive};
use libbpf_sys::{
    BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_SOCK_OPS, BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    BPF_PROG_TYPE_SOCK_OPS,
};

use ground::{BACKEND, Ground};
use load::{Done, Kind};
use table::Table;
use ways::Way;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", host] => load::serve(host).map_err(Error::from),
        ["client"] => load::client().map_err(Error::from),
        [] => compare(),
        _ => Err("usage: paths".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paths: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn compare() -> Result<(), Error> {
    let this = env::current_exe()?.display().to_string();
    let (rounds, time) =
        (number("ROUNDS", 25) as usize, Duration::from_millis(number("MILLIS", 100)));
    let mut ground = Ground::new()?;
    let mut server = ground.start("server", "plain", &[&this, "serve", BACKEND])?;
    server.answer()?;
    let (mut ways, missing) = ways::all(&mut ground, &this)?;
    for why in &missing {
        println!("not measured: {why}");
    }
    let names: Vec<&'static str> = ways.iter().map(|way| way.name).collect();
    let mut table = Table::new(names);
    // Addresses are resolved, caches warm.
    for way in &mut ways {
        for kind in Kind::ALL {
            measure(&ground, way, kind, time / 4)?;
        }
    }
    for round in 0..rounds {
        for kind in Kind::ALL {
            for step in 0..ways.len() {
                let at = (step + round) % ways.len();
                // There and back: none always comes after the same one.
                let at = if round % 2 == 0 { at } else { ways.len() - 1 - at };
                let (done, processor) = measure(&ground, &mut ways[at], kind, time)?;
                table.add(at, kind, done, processor);
            }
        }
    }
    println!("\n{table}");
    costs(&ground, &mut ways, rounds, time)
}

fn measure(
    ground: &Ground,
    way: &mut Way,
    kind: Kind,
    time: Duration,
) -> Result<(Done, Duration), Error> {
    let before = ground.processor()?;
    let answer = way.client.ask(&kind.order(way.host, time))?;
    let done = Done::parse(&answer).map_err(|error| format!("{}: {error}", way.name))?;
    Ok((done, ground.processor()?.saturating_sub(before)))
}

/// What the programs cost by the kernel's own count (`BPF_ENABLE_STATS`, which ends with this
/// process and leaves `kernel.bpf_stats_enabled` as it is). Counting costs, too: a program that
/// does nothing, at the same hook, tells how much. The best round counts, as an interrupt in the
/// midst of a program counts as its time.
fn costs(ground: &Ground, ways: &mut [Way], rounds: usize, time: Duration) -> Result<(), Error> {
    let sockops =
        Foreign::attach(&ground.cgroup("keepalive")?, BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS);
    let connect = Foreign::attach(
        &ground.cgroup("direct")?,
        BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        BPF_CGROUP_INET4_CONNECT,
    );
    let _statistics = Statistics::on();
    println!("by the kernel's own count, without what counting costs:");
    let bpffs = ground.bpffs();
    let named = |hooks: Vec<Hook>, name: &str| hooks.into_iter().find(|it| it.name == name);
    let keepalive = || named(Keepalive::read(&bpffs).ok()??.hooks, "keepline_new");
    let direct = || named(Direct::read(&bpffs).ok()??.hooks, "keepline_conn4");
    for (what, group, nothing, hook) in [
        (
            "keepalive, each end of a connection",
            "keepalive",
            &sockops,
            &keepalive as &dyn Fn() -> _,
        ),
        ("direct, connect()", "keepline direct", &connect, &direct),
    ] {
        let Some(way) = ways.iter_mut().find(|way| way.name.contains(group)) else { continue };
        let mut best = f64::INFINITY;
        for _ in 0..rounds {
            let before = (hook().ok_or("not attached")?.cost, nothing.cost().1);
            let (done, _) = measure(ground, way, Kind::Connects, time)?;
            let after = (hook().ok_or("not attached")?.cost, nothing.cost().1);
            let [with, counting] = [after.0.time - before.0.time, after.1 - before.1]
                .map(|time| time.as_secs_f64() / done.count.max(1) as f64);
            best = best.min(with - counting);
        }
        println!("  {what:40} {:7.0} ns", best * 1e9);
    }
    Ok(())
}
