//! `keepline explain`

use std::fmt::Write as _;

use keepline_core::finding::{Code, Severity};
use keepline_core::report::Style;

use crate::args::ExplainArgs;
use crate::fault::fault;
use crate::output;

/// Prints the page of a code, or all codes.
///
/// # Errors
/// When the code is unknown.
pub fn run(args: &ExplainArgs) -> anyhow::Result<u8> {
    let style = output::style();
    match &args.code {
        None => output::print(&list(style)),
        Some(text) => {
            let code: Code = text
                .parse()
                .map_err(|error| fault(format!("{error}"), "`keepline explain` lists them all"))?;
            output::print(&page(code, style))
        }
    }
}

/// The page as a terminal shows it: the pages are written to read well as they are, only the
/// signs of headings go.
fn page(code: Code, style: Style) -> String {
    let mut out = String::new();
    for line in code.text().lines() {
        match line.trim_start_matches('#') {
            heading if heading.len() < line.len() => {
                out.push_str(&style.paint("1", heading.trim_start()));
            }
            // Indented: commands.
            _ if line.starts_with("    ") => out.push_str(&style.paint("36", line)),
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn list(style: Style) -> String {
    let mut out = String::new();
    for code in Code::all() {
        let severity = code.severity();
        let colour = match severity {
            Severity::Error => "1;31",
            Severity::Warning => "1;33",
            Severity::Note => "1;32",
        };
        let name = style.paint(colour, &format!("{:<7}", severity.name()));
        // Writing to a string does not fail.
        let _ = writeln!(out, "{}  {name}  {}", style.paint("1", &code.to_string()), code.title());
    }
    out.push_str("\nOne in full: keepline explain KL001\n");
    out
}
