//! What can go wrong.

use std::time::Duration;

use keepline_core::duration;
use thiserror::Error;

/// Why a call to the Engine came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// There is no Engine, or it is out of reach.
    #[error("{0}")]
    Unreachable(String),
    /// This node is no manager.
    #[error("{reason}")]
    NotManager {
        /// The Engine's words.
        reason: String,
        /// Addresses of managers, where the Engine knows them.
        managers: Vec<String>,
    },
    /// The name is taken.
    #[error("{0}")]
    Conflict(String),
    /// The Engine refused.
    #[error("{0}")]
    Refused(String),
    /// The Engine failed, or its answer was of no use.
    #[error("{0}")]
    Failing(String),
}

impl EngineError {
    /// Whether the same call may succeed a moment later: a manager's leader changes, the Engine
    /// restarts.
    #[must_use]
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Failing(_))
    }
}

/// Why a run did not go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Stop {
    /// The user wanted it.
    #[error("interrupted")]
    Interrupted,
    /// The Engine failed for longer than a moment.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// A task failed, where none may.
    #[error("a task of {service} failed: {why}")]
    TaskFailed {
        /// Name of the service.
        service: String,
        /// The Engine's words.
        why: String,
    },
    /// It took too long.
    #[error("{waited_for}: not within {}: {seen}", duration::human(*limit))]
    Timeout {
        /// What was waited for.
        waited_for: String,
        /// What was there at the end.
        seen: String,
        /// For how long it was waited.
        limit: Duration,
    },
    /// Somebody else changed the service meanwhile.
    #[error("{service} was changed by somebody else since the migration began")]
    Changed {
        /// Name of the service.
        service: String,
    },
    /// Another run carries the migration out.
    #[error(
        "the migration of {service} is in the hands of another run, {by}: this one has stopped. \
         Let that one end, or take it over"
    )]
    Overtaken {
        /// Name of the service.
        service: String,
        /// Who it is.
        by: String,
    },
    /// Another run has ended the migration otherwise, or somebody removed the copy.
    #[error("the migration of {service} was ended by somebody else: this run has stopped")]
    Ended {
        /// Name of the service.
        service: String,
    },
    /// Somebody else's service has the name of the copy.
    #[error("a service named {0} is there already, which Keepline did not make")]
    NameTaken(String),
    /// Neither the service nor its copy is there.
    #[error("there is neither a service {0} nor a copy of it")]
    Lost(String),
}

impl Stop {
    /// Whether the migration is somebody else's now: there is nothing to go back from.
    #[must_use]
    pub(crate) fn is_anothers(&self) -> bool {
        matches!(self, Self::Overtaken { .. } | Self::Ended { .. })
    }
}
