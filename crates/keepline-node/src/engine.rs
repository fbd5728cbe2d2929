//! The Engine's answer: asked beside the scan, and worth names only.

use keepline_core::snapshot::Topology;
use keepline_docker::{DockerError, Options};

/// What the Engine told, or why it did not. Neither where there is none and nobody said that
/// there should be one.
pub(crate) type Answer = Result<Option<Topology>, String>;

/// Asks the Engine of this machine, whose host name is `host`.
pub(crate) fn ask(host: &str) -> Answer {
    let options = Options::from_env();
    match keepline_docker::topology(&options) {
        Ok(topology) => {
            // Over TCP it may be that of another machine, whose names mean nothing here.
            let remote = options.host.as_deref().filter(|host| !host.starts_with("unix://"));
            match (remote, topology.node_name.as_deref()) {
                (Some(address), Some(other)) if other != host => Err(format!(
                    "the Docker Engine at {} is that of {}, not of this machine",
                    address.escape_debug(),
                    other.escape_debug()
                )),
                _ => Ok(Some(topology)),
            }
        }
        // A socket that nobody answers at is what an Engine that died leaves behind.
        Err(DockerError::Absent { source, .. })
            if options.host.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error.to_string()),
    }
}
