//! Where the guard's words go.

use std::{io, os::linux::fs::MetadataExt, str::FromStr};

use tracing_subscriber::{fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Log {
    /// The journal where systemd has connected it, else text.
    #[default]
    Auto,
    /// Lines on stderr.
    Text,
    /// One JSON object a line on stderr.
    Json,
    /// The journal, with fields.
    Journald,
}

impl FromStr for Log {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "text" => Self::Text,
            "json" => Self::Json,
            "journald" => Self::Journald,
            _ => return Err("write auto, text, json or journald"),
        })
    }
}

/// Begins to log.
///
/// # Errors
/// When the journal cannot be reached.
pub(crate) fn begin(log: Log) -> io::Result<()> {
    // The journal and systemd put the time on by themselves.
    let by_systemd = by_systemd();
    let log = match log {
        Log::Auto if by_systemd => Log::Journald,
        Log::Auto => Log::Text,
        other => other,
    };
    let registry =
        tracing_subscriber::registry().with(tracing_subscriber::filter::LevelFilter::INFO);
    match log {
        Log::Journald => registry.with(tracing_journald::layer()?).init(),
        Log::Json => {
            registry.with(lines().json().flatten_event(true)).init();
        }
        Log::Text | Log::Auto => {
            let lines = lines().with_target(false).with_ansi(false);
            if by_systemd {
                registry.with(lines.without_time()).init();
            } else {
                registry.with(lines).init();
            }
        }
    }
    Ok(())
}

/// On stderr. Where nobody listens any more, it goes on without.
fn lines<S>() -> fmt::Layer<S, fmt::format::DefaultFields, fmt::format::Format, fn() -> io::Stderr>
{
    fmt::layer().with_writer(io::stderr as fn() -> io::Stderr).log_internal_errors(false)
}

/// Whether stderr is the journal's: `JOURNAL_STREAM` names its device and inode (systemd.exec).
fn by_systemd() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|it| stream == format!("{}:{}", it.st_dev(), it.st_ino()))
}
