//! What the Docker Engine knows of this node, as Keepline's [`Topology`]: read over the Engine's
//! HTTP API, on managers and workers, from any Engine since 18.09.
//!
//! An Engine that is absent, slow, or answers nonsense costs names and nothing else: whatever
//! part of an answer is usable is used, the rest is named in [`Topology::incomplete`].
//!
//! Why not `bollard`: its typed models fail a whole answer for one field of another Engine
//! version, it gives no access to the body as it came, and it brings 80 crates where reading a
//! dozen fields takes `hyper` and 20.
#![forbid(unsafe_code)]

mod events;
mod gather;
mod host;
mod http;
pub mod manager;
mod read;

use std::{io, time::Duration};

pub use events::follow_events;
use keepline_core::snapshot::Topology;
use thiserror::Error;
use tokio::{runtime::Runtime, time::Instant};

use crate::{host::Host, http::Engine};

/// The socket where an Engine listens unless told otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// Time for everything together: a scan does not wait longer for names.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// Names an environment variable: how long the Engine may take (`30s`), where the default is too
/// short. A value that is no duration is as none.
pub const TIMEOUT_VARIABLE: &str = "KEEPLINE_DOCKER_TIMEOUT";

/// Where the Engine is, and how long it may take.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address as in `DOCKER_HOST`: `unix://PATH` or `tcp://HOST:PORT`; absent:
    /// [`DEFAULT_HOST`].
    pub host: Option<String>,
    /// Whether TLS is asked for (`DOCKER_TLS_VERIFY`), which is refused.
    pub tls: bool,
    /// Time for everything together.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { host: None, tls: false, timeout: DEFAULT_TIMEOUT }
    }
}

impl Options {
    /// As the environment says: `DOCKER_HOST` and `DOCKER_TLS_VERIFY`, which, as for the docker
    /// command, count when they are not empty, and [`TIMEOUT_VARIABLE`].
    #[must_use]
    pub fn from_env() -> Self {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            host: set("DOCKER_HOST"),
            tls: set("DOCKER_TLS_VERIFY").is_some(),
            timeout: set(TIMEOUT_VARIABLE)
                .and_then(|value| keepline_core::duration::parse(&value).ok())
                .unwrap_or(DEFAULT_TIMEOUT),
        }
    }
}

/// Why the Engine told nothing at all. Texts of the Engine in it are escaped.
#[derive(Debug, Error)]
pub enum DockerError {
    /// There is none: no such socket, or nobody listens.
    #[error("no Docker Engine at {host}: {source}")]
    Absent {
        /// Where it was looked for.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket may not be opened.
    #[error("connect to the Docker Engine at {host}: {source} (root or the group docker may)")]
    Denied {
        /// Where it is.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address cannot be understood.
    #[error("DOCKER_HOST `{host}`: {reason}")]
    Host {
        /// The address.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Only TLS would do, which Keepline does not speak.
    #[error(
        "the Docker Engine at {host} wants TLS, which Keepline does not speak: run Keepline on \
         the node itself, where the Engine's socket is"
    )]
    Tls {
        /// The address.
        host: String,
    },
    /// It did not answer in time.
    #[error("the Docker Engine at {host} did not answer within {timeout:?}")]
    Slow {
        /// Where it is.
        host: String,
        /// How long it had.
        timeout: Duration,
    },
    /// It answered, and nothing of that was usable.
    #[error("the Docker Engine at {host} gives no usable answer: {reason}")]
    Unusable {
        /// Where it is.
        host: String,
        /// What was wrong with the list of containers.
        reason: String,
    },
    /// No event loop could be made.
    #[error("start the event loop for the Docker Engine's answers: {0}")]
    Runtime(io::Error),
}

/// Asks the Engine for everything that Keepline wants to know. Blocks for at most
/// `options.timeout`; not to be called on a tokio worker.
///
/// # Errors
/// When nothing at all could be read. What is read in part comes as a [`Topology`] with
/// `incomplete` filled.
pub fn topology(options: &Options) -> Result<Topology, DockerError> {
    let host = Host::parse(options.host.as_deref().unwrap_or(DEFAULT_HOST), options.tls)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let engine = Engine::new(host, Instant::now() + options.timeout);
        gather::gather(engine).await.map_err(|(host, error)| error.whole(host, options.timeout))
    });
    // Dropping it would wait for a name look-up that hangs.
    runtime.shutdown_background();
    result
}

/// One thread, and the caller's: the Engine is one process, and the waits are few.
fn runtime() -> Result<Runtime, DockerError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io().enable_time().build().map_err(DockerError::Runtime)
}
