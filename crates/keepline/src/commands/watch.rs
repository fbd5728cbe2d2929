//! `keepline check --watch`: look, show, wait, until a signal says enough.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use keepline_core::duration::human;
use keepline_core::report::text;

use super::check::Look;
use crate::args::{CheckArgs, CheckOutput};
use crate::output;
use crate::signals::{self, SIGINT, SIGTERM};

/// How often a wait looks for a signal.
const TICK: Duration = Duration::from_millis(100);

/// Repeats the check; the exit status is the last one's.
pub(super) fn run(args: &CheckArgs, interval: Duration) -> anyhow::Result<u8> {
    let enough = signals::stop_flag(&[SIGINT, SIGTERM])?;
    loop {
        let next = Instant::now() + interval;
        let look = Look::take(args)?;
        show(args, interval, &look)?;
        while !enough.load(Ordering::Relaxed) {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(TICK));
        }
        if enough.load(Ordering::Relaxed) {
            return Ok(look.status(args));
        }
    }
}

fn show(args: &CheckArgs, interval: Duration, look: &Look) -> anyhow::Result<()> {
    if args.output == CheckOutput::Json {
        return output::stdout(|out| look.render(out, args, output::style()));
    }
    let style = output::style();
    let mut body = Vec::new();
    look.render(&mut body, args, style)?;
    let body = String::from_utf8_lossy(&body);
    let time = look
        .snapshot
        .started
        .to_zoned_datetime(TimeZone::system())
        .strftime("%H:%M:%S")
        .to_string();
    let host = text::escape(&look.snapshot.host, text::NAME);
    let title = style.paint("2", &format!("{host}, {time}, every {}", human(interval)));
    let page = match output::window() {
        Some((_, rows)) if output::is_terminal() => screen(&title, &body, rows),
        _ => format!("--- {title}\n{body}\n"),
    };
    output::print(&page).map(drop)
}

/// A page that replaces the last one without a flicker: each line overwrites what was there, the
/// rest of the screen is cleared. What does not fit is counted.
fn screen(title: &str, body: &str, rows: usize) -> String {
    let lines: Vec<&str> = body.lines().collect();
    // The title, an empty line, and the line with the cursor.
    let room = rows.saturating_sub(3);
    let shown = if lines.len() <= room { lines.len() } else { room.saturating_sub(1) };
    let mut page = format!("\x1b[H{title}\x1b[K\n\x1b[K\n");
    // Writing to a string does not fail.
    for line in &lines[..shown] {
        let _ = writeln!(page, "{line}\x1b[K");
    }
    if shown < lines.len() {
        let _ = writeln!(page, "… {} more lines\x1b[K", lines.len() - shown);
    }
    page.push_str("\x1b[J");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_never_longer_than_the_terminal() {
        let page = screen("title", "1\n2\n3\n4\n5\n", 6);
        assert_eq!(page.matches('\n').count(), 5);
        assert!(page.contains("… 3 more lines"), "{page:?}");
        assert!(screen("title", "1\n2\n3\n", 6).contains("3\x1b[K\n"));
        assert!(screen("title", "1\n2\n", 0).contains("… 2 more lines"));
    }
}
