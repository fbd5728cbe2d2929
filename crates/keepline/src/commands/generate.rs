//! `keepline gen`: man pages and completions, for packages. Hidden from the help.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use clap::{CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;

use crate::args::{Args, GenArgs, Generated};

/// Writes the files.
///
/// # Errors
/// When they cannot be written.
pub fn run(args: &GenArgs) -> anyhow::Result<u8> {
    match &args.what {
        Generated::Man { dir } => man(dir).with_context(|| write_to(dir))?,
        Generated::Completions { dir } => completions(dir).with_context(|| write_to(dir))?,
    }
    Ok(0)
}

fn write_to(dir: &Path) -> String {
    format!("write to {}", dir.display())
}

fn man(dir: &Path) -> io::Result<()> {
    let mut command = Args::command();
    command.build();
    pages(&command, dir)
}

fn pages(command: &clap::Command, dir: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        pages(subcommand, dir)?;
    }
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    // The library leaves out what stands before the help, and runs the lines after it together.
    if let Some(examples) = command.get_before_help() {
        let examples = examples.to_string();
        verbatim(&mut page, "EXAMPLES", examples.trim_start_matches("Examples:\n"))?;
    }
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_help() {
        verbatim(&mut page, "NOTES", &notes.to_string())?;
    }
    fs::write(dir.join(man.get_filename()), page)
}

/// A section whose lines stay as they are.
fn verbatim(page: &mut Vec<u8>, title: &str, text: &str) -> io::Result<()> {
    writeln!(page, ".SH {title}\n.nf")?;
    for line in text.lines() {
        // groff(7): a backslash begins an escape, a bare minus is a hyphen, and at the start of a
        // line a dot or an apostrophe is a request; \& is nothing, and keeps it from being one.
        let line = line.replace('\\', r"\e").replace('-', r"\-");
        writeln!(page, r"\&{line}")?;
    }
    writeln!(page, ".fi")
}

/// The shells that distributions have folders for.
fn completions(dir: &Path) -> io::Result<()> {
    for shell in Shell::value_variants() {
        if matches!(shell, Shell::Bash | Shell::Zsh | Shell::Fish) {
            clap_complete::generate_to(*shell, &mut Args::command(), "keepline", dir)?;
        }
    }
    Ok(())
}
