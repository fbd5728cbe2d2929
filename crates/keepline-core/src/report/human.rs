//! The check for people: the verdict in one sentence, the sessions, the findings as a compiler
//! prints its diagnostics, a summary. 80 columns are enough for all but long commands.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Check, Style, counted, grouped, table,
    text::{self, escape, wrap, wrap_command},
};
use crate::{
    Verdict,
    duration::human,
    finding::{Code, Finding, Severity},
};

/// Findings of one code that are printed; the JSON has all.
const PER_CODE: usize = 3;

/// The check as text, each line ended.
#[must_use]
pub fn check(check: &Check<'_>, style: Style) -> String {
    let findings = &check.judgement.findings;
    let summary = &check.judgement.summary;
    let mut out = String::new();
    for line in headline(check, style) {
        out.push_str(&line);
        out.push('\n');
    }
    let troubled = summary.orphaned + summary.at_risk + summary.unknown > 0;
    if troubled || check.all {
        let sessions = table::sessions(check, style);
        if !sessions.is_empty() {
            out.push('\n');
            out.push_str(&sessions);
        }
    }
    out.push_str(&diagnostics(check, style));
    if troubled || !findings.is_empty() {
        out.push('\n');
        out.push_str(&closing(check, style));
    }
    out
}

/// `9 namespaces, 0.02 s`.
fn effort(check: &Check<'_>, sockets: bool) -> String {
    let snapshot = check.snapshot;
    let mut parts = vec![counted(snapshot.namespaces.len(), "namespace", "namespaces")];
    if sockets {
        parts.push(counted(snapshot.sockets(), "socket", "sockets"));
    }
    parts.push(format!("{:.2} s", snapshot.duration.as_secs_f64()));
    parts.join(", ")
}

/// The verdict in one sentence, or two.
fn headline(check: &Check<'_>, style: Style) -> Vec<String> {
    let summary = &check.judgement.summary;
    let tracked = check.tracked();
    let incomplete =
        check.judgement.findings.iter().any(|finding| finding.code == Code::SCAN_INCOMPLETE);
    let next = check.next_loss().map(human);
    // In the same breath as "1 of 4 sessions": "is … it", "are … them".
    let share = |count: usize| {
        let all = counted(tracked, "session", "sessions");
        let (is, it) = if count == 1 { ("is", "it") } else { ("are", "them") };
        (format!("{} of {all} {is}", grouped(count as u64)), it)
    };
    let (verdict, sentences) = if summary.orphaned > 0 {
        let (share, it) = share(summary.orphaned);
        let first = format!("{share} orphaned: the load balancer has forgotten {it}.");
        let more = (summary.at_risk > 0).then(|| {
            let next = next.map_or(String::new(), |next| format!(", the next in {next}"));
            format!("{} more at risk{next}.", grouped(summary.at_risk as u64))
        });
        (Verdict::Orphaned, std::iter::once(first).chain(more).collect())
    } else if summary.at_risk > 0 {
        let (share, _) = share(summary.at_risk);
        let when = match (next, summary.at_risk) {
            (Some(next), 1) => format!(": forgotten in {next} unless traffic comes"),
            (Some(next), _) => format!(": the next is forgotten in {next} unless traffic comes"),
            (None, _) => String::new(),
        };
        (Verdict::AtRisk, vec![format!("{share} at risk{when}.")])
    } else if summary.unknown > 0 {
        let count = grouped(summary.unknown as u64);
        let all = counted(tracked, "session", "sessions");
        (Verdict::Unknown, vec![format!("{count} of {all} could not be judged.")])
    } else {
        let sentence = nothing_wrong(check, tracked);
        if incomplete {
            let sentence = format!("{sentence}, as far as could be seen.");
            (Verdict::Unknown, vec![sentence])
        } else {
            let mark = style.paint(table::colour(Verdict::Safe), "✔ ");
            // All sessions are safe, but there is something to say: no mark.
            let mark = if check.judgement.findings.is_empty() { mark } else { String::new() };
            return vec![format!("{mark}{sentence} ({})", effort(check, tracked == 0))];
        }
    };
    let sentences: Vec<String> = sentences;
    let colour = if verdict == Verdict::Unknown { "1" } else { table::colour(verdict) };
    sentences
        .iter()
        .flat_map(|sentence| wrap(sentence, style.width))
        .enumerate()
        .map(|(at, line)| if at == 0 { style.paint(colour, &line) } else { line })
        .collect()
}

fn nothing_wrong(check: &Check<'_>, tracked: usize) -> String {
    if tracked == 0 {
        return "No session goes through a load balancer".to_owned();
    }
    let sessions = &check.judgement.sessions;
    let directors: BTreeSet<usize> = sessions.iter().filter_map(|it| it.director).collect();
    format!(
        "{} through {}: all safe",
        counted(tracked, "session", "sessions"),
        counted(directors.len(), "load balancer", "load balancers"),
    )
}

fn diagnostics(check: &Check<'_>, style: Style) -> String {
    let mut printed: BTreeMap<Code, usize> = BTreeMap::new();
    let mut out = String::new();
    let findings = &check.judgement.findings;
    for (at, finding) in findings.iter().enumerate() {
        let count = printed.entry(finding.code).or_default();
        *count += 1;
        if *count <= PER_CODE {
            out.push('\n');
            out.push_str(&diagnostic(check, finding, style));
        }
        // They are sorted by code: here this one's end.
        let last = findings.get(at + 1).is_none_or(|next| next.code != finding.code);
        if last && *count > PER_CODE {
            let more = grouped((*count - PER_CODE) as u64);
            out.push_str(&format!("\n… and {more} more of {} (-o json lists all)\n", finding.code));
        }
    }
    out
}

fn diagnostic(check: &Check<'_>, finding: &Finding, style: Style) -> String {
    let severity = finding.code.severity();
    let colour = match severity {
        Severity::Error => "1;31",
        Severity::Warning => "1;33",
        Severity::Note => "1;32",
    };
    let head = style.paint(colour, &format!("{}[{}]", severity.name(), finding.code));
    let title = style.paint("1", &format!(": {}", finding.code.title()));
    let frame = |text: &str| style.paint("1;34", text);
    let mut out = format!("{head}{title}\n");
    if let Some(director) = finding.director.map(|at| &check.snapshot.namespaces[at]) {
        let name = escape(&director.name, text::NAME);
        // `  --> `, a space and the brackets around.
        let room = style.width.saturating_sub(text::width(&name) + 9);
        let path = director.path.as_ref().filter(|_| room > 0);
        let path = path.map_or(String::new(), |path| format!(" ({})", escape(path, room)));
        out.push_str(&format!("  {} {name}{path}\n", frame("-->")));
    }
    out.push_str(&format!("   {}\n", frame("|")));
    let mut note = |label: &str, lines: Vec<String>| {
        for (at, line) in lines.iter().enumerate() {
            let start = if at == 0 {
                format!("   {} {}", frame("="), style.paint("1", &format!("{label}:")))
            } else {
                // Under the text, which begins after `   = seen: `.
                " ".repeat(label.len() + 6)
            };
            out.push_str(&format!("{start} {line}\n"));
        }
    };
    let columns = style.width.saturating_sub("   = seen: ".len());
    note("seen", wrap(&escape(&finding.detail, text::SENTENCE), columns));
    for fix in &finding.fix {
        let fix = escape(fix, text::COMMAND);
        // The way out of an incomplete scan is told in words, or is a short command.
        let lines = match finding.code {
            Code::SCAN_INCOMPLETE => wrap(&fix, columns),
            _ => wrap_command(&fix, columns),
        };
        note("help", lines);
    }
    out
}

/// `4 sessions: 1 orphaned, 2 at risk, 1 safe`, and what the look was.
fn closing(check: &Check<'_>, style: Style) -> String {
    let summary = &check.judgement.summary;
    let counts = [
        (summary.orphaned, "orphaned", Verdict::Orphaned),
        (summary.at_risk, "at risk", Verdict::AtRisk),
        (summary.unknown, "unknown", Verdict::Unknown),
        (summary.safe, "safe", Verdict::Safe),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, name, verdict)| {
            style.paint(table::colour(verdict), &format!("{} {name}", grouped(count as u64)))
        })
        .collect();
    let mut out = match check.tracked() {
        0 => String::new(),
        count => format!("{}: {}\n", counted(count, "session", "sessions"), counts.join(", ")),
    };
    out.push_str(&format!("Looked at {}\n", effort(check, true)));
    let codes: BTreeSet<(Severity, Code)> =
        check.judgement.findings.iter().map(|it| (it.code.severity(), it.code)).collect();
    let mut codes = codes.into_iter().map(|(_, code)| code.to_string());
    if let Some(first) = codes.next() {
        let others: Vec<String> = codes.collect();
        let also = match others.as_slice() {
            [] => String::new(),
            others => format!(" (also {})", others.join(", ")),
        };
        for line in wrap(&format!("For more: keepline explain {first}{also}"), style.width) {
            out.push_str(&format!("{line}\n"));
        }
    }
    out
}
