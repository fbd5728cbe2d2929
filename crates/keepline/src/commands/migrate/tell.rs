//! What is said: the plan, each step, refusals, and what to type next.

use std::fmt::Write as _;

use keepline_core::report::text;
use keepline_migrate::preflight::Refusal;
use keepline_migrate::{Mode, Progress, Step, Stop};
use serde_json::Value;

/// Wider than this is hard to read (columns).
const WIDE: usize = 100;

/// Tells how far a run is, on stderr.
#[derive(Debug, Default)]
pub struct Teller {
    indent: usize,
}

impl Teller {
    /// One thing.
    pub fn tell(&mut self, progress: &Progress) {
        match progress {
            Progress::Step(number, all, what) => {
                let count = format!("[{number}/{all}] ");
                self.indent = count.len();
                say!("{count}{}", text::escape(what, text::SENTENCE));
            }
            Progress::Waiting(what) => {
                let what = text::escape(what, text::SENTENCE);
                say!("{}{what}", " ".repeat(self.indent));
            }
            Progress::Note(what) => {
                say!("keepline: note: {}", text::escape(what, text::SENTENCE));
            }
            Progress::Back(why) => {
                say!("keepline: going back: {}", text::escape(why, text::SENTENCE));
            }
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        self.indent = 0;
    }
}

/// The plan, as it is shown before it is carried out.
pub fn plan(
    name: &str,
    goal: Mode,
    steps: &[Step],
    spec: &Value,
    notes: &[String],
    clients: &[String],
) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(out, "{} to mode {goal}:", text::escape(name, text::NAME));
    for (index, step) in steps.iter().enumerate() {
        let step = text::escape(&step.text(spec), text::SENTENCE);
        let _ = writeln!(out, "{:>4}. {step}", index + 1);
    }
    if !clients.is_empty() {
        let _ = writeln!(out, "\nOpen sessions to it on this node, which end when its tasks stop:");
        for client in clients {
            let _ = writeln!(out, "  {client}");
        }
    }
    if !notes.is_empty() {
        let _ = writeln!(out, "\nTo know:");
        for note in notes {
            let note = text::escape(note, text::SENTENCE);
            for (index, line) in text::wrap(&note, WIDE).iter().enumerate() {
                let _ = writeln!(out, "{}{line}", if index == 0 { "- " } else { "  " });
            }
        }
    }
    out
}

/// Why it does not begin, and the ways out.
pub fn refusals(refusals: &[Refusal]) {
    for refusal in refusals {
        say!("keepline: error: {}", text::escape(&refusal.what, text::SENTENCE));
        for (index, line) in refusal.help.iter().enumerate() {
            let line = text::escape(line, text::COMMAND);
            // Lines to be copied keep their place.
            let lead = match (index, line.starts_with("  ")) {
                (0, false) => "help: ",
                (_, false) => "      ",
                (_, true) => "    ",
            };
            say!("{lead}{line}");
        }
    }
    say!("keepline: nothing was changed");
}

/// A run ended on the way.
pub fn stopped(name: &str, why: &Stop, back: Option<&Stop>) {
    let escaped = |stop: &Stop| text::escape(&stop.to_string(), text::SENTENCE);
    say!("keepline: error: {}", escaped(why));
    if let Some(back) = back {
        say!("keepline: error: and going back: {}", escaped(back));
    }
    if matches!(why, Stop::NameTaken(_)) {
        say!("help: remove that service if it is of no use; nothing was changed");
        return;
    }
    commands(name);
}

/// What to type on any manager.
fn commands(name: &str) {
    let name = text::escape(name, text::NAME);
    say!("help: go on, or go back, on any manager:");
    say!("        keepline migrate {name} --resume");
    say!("        keepline migrate {name} --rollback");
}

/// The service is away and its copy there: somebody began.
pub fn begun(name: &str) {
    let shown = text::escape(name, text::NAME);
    say!("keepline: error: a migration of {shown} has begun and not ended");
    commands(name);
}

/// There is nothing to take up.
pub fn nothing(name: &str, mode: Option<Mode>) {
    let name = text::escape(name, text::NAME);
    say!("keepline: error: no migration of {name} has begun and not ended");
    if let Some(mode) = mode {
        let other = mode.other();
        say!("help: it is in mode {mode}; `keepline migrate {name} --to {other}` changes that");
    }
}

/// What is to be taken up goes elsewhere.
pub fn other_way(name: &str, to: Mode) {
    let shown = text::escape(name, text::NAME);
    say!("keepline: error: the migration of {shown} that has begun is one to {to}");
    commands(name);
}

/// Clients that hold on to what is gone.
pub fn still_bound(clients: &[String]) {
    if clients.is_empty() {
        return;
    }
    say!("keepline: warning: clients on this node still have sessions to what is gone:");
    for client in clients {
        say!("  {client}");
    }
    say!("help: they end with an error when they are used; restart what does not try again");
}
