//! The agent: what holds where is read from a file and from Docker's labels, and kept so. Each pass
//! is observe → judge → plan → act, as if somebody had typed it; what wakes it is in [`bell`], what it
//! tells in [`web`], [`metrics`] and the log.
//!
//! It may die at any moment. Everything it does stands in the journal, and the next one takes up what
//! it finds.
#![forbid(unsafe_code)]

mod backoff;
mod bell;
mod config;
pub mod control;
mod engine;
mod guard;
mod log;
mod metrics;
mod rights;
mod state;
mod web;

use std::{io, net::SocketAddr, path::PathBuf};

use keepline_core::snapshot::Select;
use keepline_node::run::RunError;
use thiserror::Error;

pub use config::{Config, ConfigError, FILE, listen};
pub use log::Log;
pub use state::{SCHEMA, Sessions, Told};

/// How the guard is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its file; absent: [`FILE`], if that is there.
    pub config: Option<PathBuf>,
    /// Where metrics are told, instead of what the file says; inner absent: nowhere.
    pub listen: Option<Option<SocketAddr>>,
    /// Form of the log.
    pub log: Log,
    /// One pass, and no answering.
    pub once: bool,
    /// Which part of the machine is guarded.
    pub select: Select,
}

/// Why the guard does not run.
#[derive(Debug, Error)]
pub enum GuardError {
    /// Its file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The folder under `/run`, or another guard.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The machine cannot be looked at.
    #[error(transparent)]
    Node(#[from] keepline_node::NodeError),
    /// Something it needs from the system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl GuardError {
    fn system(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::System { what, source }
    }
}

/// Runs until a signal ends it, or one pass; whether that went well.
///
/// # Errors
/// When it cannot begin.
pub fn run(options: &Options) -> Result<bool, GuardError> {
    guard::run(options)
}
