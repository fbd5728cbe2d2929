//! A day of the guard in fast time: at its end it uses what it used after its first hours.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    lab::{keepline, output},
    run::{Run, wait_for},
};

/// Looks of a day, one every 20 s.
const LOOKS: u32 = 24 * 3600 / 20;
/// In parts: the first is for what is made once and kept.
const PARTS: u32 = 10;
/// So often a namespace comes and one goes.
const LOOKS_BETWEEN: u32 = 40;

/// A guard that is alone on a machine, as far as it can see: what else goes on here does not count.
struct Alone {
    run: Run,
    unshare: Child,
    guard: u32,
}

/// What a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Used {
    kib: i64,
    threads: i64,
    descriptors: usize,
}

impl Alone {
    fn start(name: &str) -> Self {
        // All of /run: a folder in it that is removed outside would take what is mounted on it along.
        const INSIDE: &str = "mount -t tmpfs run /run && ip link set lo up && exec \"$@\"";
        let run = Run::new(name);
        fs::create_dir_all(&run.0).unwrap();
        let file = run.0.join("config.toml");
        fs::write(&file, "[guard]\nlisten = \"off\"\n").unwrap();
        let log = fs::File::create(run.0.join("log")).unwrap();
        let guard = run.command(&["guard", "--log", "text", "--config"]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", INSIDE, "sh"]).arg(guard.get_program()).args(guard.get_args());
        command.envs(guard.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let unshare = command.arg(&file).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut alone = Self { run, unshare, guard: 0 };
        wait_for("the guard is well", || alone.run.ask("GET /healthz").contains(" 200 "));
        let parent = alone.unshare.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        alone.guard = children.unwrap().trim().parse().unwrap();
        alone
    }

    /// Runs a command where the guard is.
    #[track_caller]
    fn inside(&self, program: &Command) {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--pid", "--target", &self.guard.to_string()]);
        command.arg(program.get_program()).args(program.get_args());
        let (status, text) = output(&mut command);
        assert_eq!(status, 0, "{program:?}: {text}");
    }

    fn netns(&self, what: &str, name: &str) {
        self.inside(Command::new("ip").args(["netns", what, name]));
    }

    fn lab(&self, arguments: &[&str]) {
        self.inside(keepline().arg("lab").args(arguments));
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.run.ask("GET /metrics");
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name}: {text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    fn looks(&self) -> f64 {
        self.metric("keepline_scan_duration_seconds_count")
    }

    /// Lets it look about as often as between two namespaces that come.
    fn look(&self) {
        for _ in 0..LOOKS_BETWEEN {
            // An asked one comes at once; those that come amid a look are one.
            self.run.ask("POST /look");
            sleep(Duration::from_millis(5));
        }
    }

    /// Between two looks: amid one it has namespaces open.
    fn used(&self) -> Used {
        let at_rest = (0..20).map(|_| {
            sleep(Duration::from_millis(50));
            let status = fs::read_to_string(format!("/proc/{}/status", self.guard)).unwrap();
            let number = |key: &str| -> i64 {
                let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
                line.split_whitespace().next().unwrap().parse().unwrap()
            };
            let descriptors = fs::read_dir(format!("/proc/{}/fd", self.guard)).unwrap().count();
            Used { kib: number("VmRSS:"), threads: number("Threads:"), descriptors }
        });
        at_rest.min_by_key(|used| used.descriptors).unwrap()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.run.0.join("log")).unwrap_or_default());
        }
        // With the guard, the first process there, all others end; unshare itself then ends, too.
        match Pid::from_raw(i32::try_from(self.guard).unwrap()) {
            Some(guard) => drop(kill_process(guard, Signal::KILL)),
            None => drop(self.unshare.kill()),
        }
        let _ = self.unshare.wait();
    }
}

#[test]
fn a_day_of_reconciles_leaves_memory_descriptors_and_threads_flat() {
    // All labs have the same addresses. The sockets of this one are seen from outside, its director is
    // not: another guard would take them for forgotten sessions of its own.
    needs_root_and_nft!(alone);
    let begun = Instant::now();
    let guard = Alone::start("day");
    // Held every few seconds all day long.
    let sessions = ["--sessions", "20", "--tcp-timeout", "15s"];
    guard.lab(&[&["up", "nat", "--name", "steady"][..], &sessions].concat());
    let (mut all, mut come) = (Vec::new(), 0);
    for part in 1..=PARTS {
        // Once a part a director comes and goes, with sessions.
        guard.lab(&[&["up", "nat", "--name", "passing"][..], &sessions].concat());
        guard.look();
        guard.lab(&["down", "--name", "passing"]);
        while guard.looks() < f64::from(LOOKS * part / PARTS) {
            guard.look();
            guard.netns("add", &format!("day{come}"));
            if let Some(old) = u32::checked_sub(come, 3) {
                guard.netns("del", &format!("day{old}"));
            }
            come += 1;
        }
        sleep(Duration::from_millis(500));
        let used = guard.used();
        println!("{:6.0} looks, {come:3} namespaces came: {used:?}", guard.looks());
        all.push(used);
    }
    // Once this machine has many sockets, whoever's they are, programs that walk them are loaded.
    let step = all.windows(2).position(|it| it[0].descriptors < it[1].descriptors);
    let early = all[step.map_or(0, |at| at + 1)];
    assert!(step.is_none_or(|at| at + 2 < all.len()), "no way to tell: {all:?}");
    let late = guard.used();
    let held = guard.metric("keepline_entries_held_total");
    println!(
        "{:.0} s; {held} entries held; a look took {:.1} ms",
        begun.elapsed().as_secs_f64(),
        guard.metric("keepline_scan_duration_seconds_sum") / guard.looks() * 1000.0
    );
    assert!(held > 0.0);
    assert!(late.kib - early.kib < 1024, "{early:?} → {late:?}");
    assert_eq!((late.threads, late.descriptors), (early.threads, early.descriptors));
}
