//! The same service on several ways, in one run: `scripts/bench paths` runs it as root.
//!
//! Ratios are told, no time is asserted: each way is compared with the plain connection of the same
//! round, in an order that changes from round to round, and the median of the rounds counts. ROUNDS
//! (9), MILLIS (300) for each measurement, HAPROXY (`haproxy`).

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

use ground::{ANSWERED, BACKEND, Ground};
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
        (number("ROUNDS", 9) as usize, Duration::from_millis(number("MILLIS", 300)));
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
            measure(&ground, way, kind, time / 10)?;
        }
    }
    for round in 0..rounds {
        for kind in Kind::ALL {
            for step in 0..ways.len() {
                let at = (step + round) % ways.len();
                // There and back: what drifts in one direction cancels out.
                let at = if round % 2 == 0 { at } else { ways.len() - 1 - at };
                let (done, processor) = measure(&ground, &mut ways[at], kind, time)?;
                table.add(at, kind, done, processor);
            }
        }
    }
    println!("\n{table}");
    costs(&ground, &mut ways, time)
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
/// does nothing, at the same hook, tells how much.
fn costs(ground: &Ground, ways: &mut [Way], time: Duration) -> Result<(), Error> {
    let sockops =
        Foreign::attach(&ground.cgroup("keepalive")?, BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS);
    let connect = Foreign::attach(
        &ground.cgroup("direct")?,
        BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        BPF_CGROUP_INET4_CONNECT,
    );
    let _statistics = Statistics::on();
    println!("a connection costs, by the kernel's own count, without what counting costs:");
    let mut tell = |what: &str, group: &str, nothing: &Foreign, hook: &dyn Fn() -> Option<Hook>| {
        let Some(way) = ways.iter_mut().find(|way| way.name.contains(group)) else {
            return Ok(());
        };
        let before = (hook(), nothing.cost());
        let (done, _) = measure(ground, way, Kind::Connects, time * 3)?;
        let after = (hook(), nothing.cost());
        let (Some(was), Some(is)) = (before.0, after.0) else { return Err("not attached".into()) };
        let count = u32::try_from(done.count).unwrap_or(u32::MAX).max(1);
        let [gross, counting] =
            [is.cost.time - was.cost.time, after.1.1 - before.1.1].map(|it| it / count);
        let runs = (is.cost.runs - was.cost.runs) as f64 / f64::from(count);
        println!(
            "  {what:44} {:>8.0?} ({gross:.0?} with it; {runs:.1} runs, {count} connections)",
            gross.saturating_sub(counting),
        );
        Ok::<(), Error>(())
    };
    let bpffs = ground.bpffs();
    let named = |hooks: Vec<Hook>, name: &str| hooks.into_iter().find(|it| it.name == name);
    tell("keepalive, each end", "keepalive", &sockops, &|| {
        named(Keepalive::read(&bpffs).ok()??.hooks, "keepline_new")
    })?;
    tell("direct, connect()", "keepline direct", &connect, &|| {
        named(Direct::read(&bpffs).ok()??.hooks, "keepline_conn4")
    })?;
    debug_assert_ne!(ANSWERED, BACKEND);
    Ok(())
}
