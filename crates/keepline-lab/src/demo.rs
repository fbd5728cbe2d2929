//! The demo: the loss of a session told as a story, with the real program showing it.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::{Duration, Instant};

use crate::error::{LabError, io_error};
use crate::interrupt::Interrupt;
use crate::lab::{ClientSpec, Lab, Spec, default_id};
use crate::layout::{Layout, Plan};
use crate::program::{self, Verdicts};
use crate::scenario::MARGIN;
use crate::units::{Keepalive, format_duration};

/// How long the director remembers a silent session here; 900 s with IPVS in real life.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Keepalive of the second session: two probes within the timeout.
const KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(3), interval: Duration::from_secs(1), count: 3 };
/// Time for the reader of a terminal to follow, between steps.
const PAUSE: Duration = Duration::from_millis(1800);
/// Lines of `keepline explain` that the story shows.
const EXPLAIN_LINES: usize = 12;

/// Tells the story. True when it went as told.
pub(crate) fn run(layout: Layout, interrupt: &Interrupt) -> Result<bool, LabError> {
    let spec = Spec::new(default_id(), layout, TIMEOUT, 0);
    let teller = Teller::new(interrupt);
    let lab = Lab::up_for_this_program(&spec, interrupt)?;
    let mut story = Story { teller, lab, connected: Instant::now() };

    story.the_stage(&spec)?;
    story.three_sessions()?;
    let before = story.check("What does Keepline say?")?;
    story.silence()?;
    let after = story.check("And now?")?;
    story.teller.step("Two applications write again")?;
    let lost = story.write("app")?;
    let kept_lost = story.write("app-keepalive")?;
    story.teller.pause()?;
    story.explain()?;
    let rescued_lost = story.rescue()?;
    let Story { teller, lab, .. } = story;
    lab.down()?;
    teller.result(&Outcome { before, after, lost, kept_lost, rescued_lost })
}

/// How the story went.
struct Outcome {
    before: Option<Verdicts>,
    after: Option<Verdicts>,
    /// Sessions lost by the one that nobody helped.
    lost: u32,
    /// By the one with keepalive.
    kept_lost: u32,
    /// By the one that was healed and held.
    rescued_lost: u32,
}

struct Story<'a> {
    teller: Teller<'a>,
    lab: Lab,
    connected: Instant,
}

impl Story<'_> {
    fn the_stage(&mut self, spec: &Spec) -> Result<(), LabError> {
        let plan = Plan {
            id: spec.id.clone(),
            layout: spec.layout,
            backends: spec.backends,
            tcp_timeout: spec.tcp_timeout,
        };
        let teller = &self.teller;
        teller.step("A client, a load balancer, two databases")?;
        teller.say(&plan.picture())?;
        let memory = if spec.layout.uses_ipvs() {
            "A real IPVS forgets after 15 minutes of silence"
        } else {
            "A real one forgets after minutes or hours of silence"
        };
        teller.say(&format!(
            "\nAll of it lives in network namespaces of its own (layout {}).\n{memory}; this one after {}.\n",
            spec.layout,
            format_duration(spec.tcp_timeout)
        ))?;
        teller.pause()
    }

    fn three_sessions(&mut self) -> Result<(), LabError> {
        self.teller.step("Three sessions")?;
        let client =
            |name: &str, keepalive| ClientSpec { name: name.to_owned(), sessions: 1, keepalive };
        // The silent ones last: their time runs from here.
        self.lab.add_client(&client("app-keepalive", Some(KEEPALIVE)))?;
        self.lab.add_client(&client("app", None))?;
        self.lab.add_client(&client("app-2", None))?;
        self.connected = Instant::now();
        self.teller.say(&format!(
            "\"app\", \"app-2\"   connect, say hello, get their answer, fall silent.\n\"app-keepalive\"  the same, but its kernel sends a probe every {}.\n",
            format_duration(KEEPALIVE.idle)
        ))?;
        self.teller.pause()
    }

    fn check(&self, title: &str) -> Result<Option<Verdicts>, LabError> {
        self.teller.step(title)?;
        let netns = self.lab.state().client_netns.as_str();
        // Asked for its numbers first, so that the countdown on show is the fresher one.
        let verdicts = program::check(netns);
        self.teller.command(&["check", "--netns", netns])?;
        match verdicts {
            Ok(verdicts) => {
                self.teller.pause()?;
                Ok(Some(verdicts))
            }
            Err(error) => {
                self.teller.say(&format!("{error}\n"))?;
                Ok(None)
            }
        }
    }

    fn silence(&self) -> Result<(), LabError> {
        self.teller.step("Silence")?;
        let end = self.connected + TIMEOUT + MARGIN;
        self.teller.count_down(end, "until the load balancer has forgotten the silent sessions")?;
        self.teller.say("Their sockets are open as before. Nobody was told anything.\n")?;
        self.teller.pause()
    }

    /// Lets one client write; returns how many of its sessions were lost.
    fn write(&self, name: &str) -> Result<u32, LabError> {
        let mut lost = 0;
        for client in self.lab.state().clients.iter().filter(|client| client.name == name) {
            let summary = client.write()?;
            let millis = format!("after {:.1} ms", summary.seconds * 1000.0);
            let fate = if summary.reset > 0 {
                format!("Connection reset by peer, {millis}. The session is lost.")
            } else if summary.timed_out > 0 {
                "no answer in 5 s. It would hang about 15 minutes.".to_owned()
            } else if summary.closed > 0 {
                format!("closed by the other end, {millis}.")
            } else {
                format!("the answer came {millis}.")
            };
            lost += summary.lost();
            self.teller.say(&format!("{:<16} {fate}\n", format!("\"{name}\"")))?;
        }
        Ok(lost)
    }

    /// The third session, forgotten as well, is brought back and held over another silence.
    fn rescue(&self) -> Result<u32, LabError> {
        self.teller.step("The rescue: \"app-2\" is forgotten too, but has not written yet")?;
        let netns = self.lab.state().client_netns.as_str();
        self.teller.command(&["heal", "--netns", netns, "--yes"])?;
        self.teller
            .command(&["apply", "hold", "--once", "--for", "1m", "--netns", netns, "--yes"])?;
        self.teller.pause()?;
        let end = Instant::now() + TIMEOUT + MARGIN;
        self.teller.count_down(end, "of silence once more")?;
        let lost = self.write("app-2")?;
        self.teller.pause()?;
        Ok(lost)
    }

    fn explain(&self) -> Result<(), LabError> {
        self.teller.step("Why?")?;
        self.teller.prompt(&["explain", "KL001"])?;
        let output = program::capture(&["explain", "KL001"])?;
        let text = String::from_utf8_lossy(if output.status.success() {
            &output.stdout
        } else {
            &output.stderr
        });
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().take(EXPLAIN_LINES) {
            self.teller.say(&format!("{line}\n"))?;
        }
        if lines.len() > EXPLAIN_LINES {
            self.teller.say("...\n")?;
        }
        self.teller.pause()
    }
}

/// Writes to a person, or to a file without a person's colours and pauses.
struct Teller<'a> {
    interrupt: &'a Interrupt,
    terminal: bool,
    colour: bool,
}

impl<'a> Teller<'a> {
    fn new(interrupt: &'a Interrupt) -> Self {
        let terminal = stdout().is_terminal();
        // no-color.org: present and not empty.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { interrupt, terminal, colour: terminal && !no_colour }
    }

    fn say(&self, text: &str) -> Result<(), LabError> {
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(io_error("write to stdout"))
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn step(&self, title: &str) -> Result<(), LabError> {
        self.interrupt.check()?;
        self.say(&format!("\n{}\n", self.styled("1", &format!("== {title}"))))
    }

    fn prompt(&self, arguments: &[&str]) -> Result<(), LabError> {
        let command = format!("keepline {}", arguments.join(" "));
        self.say(&format!("{} {}\n", self.styled("2", "$"), self.styled("1;36", &command)))
    }

    fn command(&self, arguments: &[&str]) -> Result<(), LabError> {
        self.prompt(arguments)?;
        // Its exit status is a verdict and not a failure.
        program::show(arguments)?;
        self.interrupt.check()
    }

    fn pause(&self) -> Result<(), LabError> {
        if self.terminal { self.interrupt.sleep(PAUSE) } else { self.interrupt.check() }
    }

    fn count_down(&self, end: Instant, until: &str) -> Result<(), LabError> {
        let left = || end.saturating_duration_since(Instant::now());
        if !self.terminal {
            self.say(&format!("{:.0} s {until}\n", left().as_secs_f64()))?;
            return self.interrupt.sleep(left());
        }
        while !left().is_zero() {
            let seconds = left().as_secs();
            self.say(&format!("\r\x1b[K{:>2} s {until}", seconds + 1))?;
            self.interrupt.sleep(left().saturating_sub(Duration::from_secs(seconds)))?;
        }
        self.say("\r\x1b[K")
    }

    /// The last words. True when all went as told.
    fn result(&self, outcome: &Outcome) -> Result<bool, LabError> {
        let number = |verdicts: Option<Verdicts>, of: fn(Verdicts) -> u32| {
            verdicts.map_or("?".to_owned(), |verdicts| of(verdicts).to_string())
        };
        let Outcome { before, after, lost, kept_lost, rescued_lost } = *outcome;
        let rescued = if rescued_lost == 0 { "survived" } else { "lost" };
        self.step("Result")?;
        self.say(&format!(
            "predicted: {} of 3, found before the application noticed: {} of 3\n\
             lost: {} of 3; healed and held: \"app-2\" {rescued}\n",
            number(before, |verdicts| verdicts.at_risk),
            number(after, |verdicts| verdicts.orphaned),
            lost + kept_lost + rescued_lost,
        ))?;
        let foretold = Some(Verdicts { safe: 1, at_risk: 2, orphaned: 0 });
        let found = Some(Verdicts { safe: 1, at_risk: 0, orphaned: 2 });
        let as_told =
            (lost, kept_lost, rescued_lost) == (1, 0, 0) && before == foretold && after == found;
        self.say(&if as_told {
            format!(
                "{} Everything of the lab is removed again.\nYour own machine: {}\n",
                self.styled("32", "As told."),
                self.styled("1;36", "keepline check")
            )
        } else {
            format!(
                "{} Everything of the lab is removed again.\n",
                self.styled("31", "Not as told.")
            )
        })?;
        Ok(as_told)
    }
}
