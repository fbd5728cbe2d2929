//! The doors to the outside: stdout, and what is known of the terminal behind it.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use anyhow::Context as _;
use keepline_core::report::{Style, text};
use keepline_core::snapshot::Incomplete;

/// Says a line on stderr. Where nobody listens any more there is nobody to be told that: whoever
/// holds sessions goes on.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

/// Wider lines than this are hard to read (columns).
const WIDEST: usize = 120;

/// Writes to stdout by `write`. A reader that has gone (`| head`) is not an error: what it wanted
/// it has.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub fn stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // Nothing more is written when the buffer is dropped.
            let _ = out.into_parts();
            Ok(())
        }
        done => done.context("write to stdout"),
    }
}

/// Prints `text`; exit status 0.
///
/// # Errors
/// As [`stdout`].
pub fn print(text: &str) -> anyhow::Result<u8> {
    stdout(|out| out.write_all(text.as_bytes()))?;
    Ok(0)
}

/// Whether stdout is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// How the screen behind stdout is: 80 columns without colours if there is none.
pub fn style() -> Style {
    if !is_terminal() {
        return Style::PLAIN;
    }
    // no-color.org: present and not empty.
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    let width = window().map_or(Style::PLAIN.width, |(columns, _)| columns);
    Style { colour: !no_colour && !dumb, width: width.clamp(Style::PLAIN.width, WIDEST) }
}

/// Columns and rows of the terminal, where they are known.
pub fn window() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    let known = size.ws_col > 0 && size.ws_row > 0;
    known.then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// Says on stderr what could not be seen.
pub fn warn_incomplete(incomplete: &[Incomplete]) {
    /// More than this is read by nobody.
    const SHOWN: usize = 5;
    for item in incomplete.iter().take(SHOWN) {
        let what = text::escape(&item.what, text::NAME);
        let why = text::escape(&item.why, text::SENTENCE);
        say!("keepline: warning: not seen: {what}: {why}");
        if let Some(help) = &item.help {
            say!("help: {}", text::escape(help, text::SENTENCE));
        }
    }
    if incomplete.len() > SHOWN {
        say!("keepline: warning: and {} more were not seen", incomplete.len() - SHOWN);
    }
}
