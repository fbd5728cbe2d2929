//! Where the Engine listens: `DOCKER_HOST`.

use std::{fmt, path::PathBuf};

use crate::DockerError;

/// An Engine's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `name:port`, without TLS.
    Tcp(String),
}

impl Host {
    /// Reads an address as the docker command does (`ParseHostURL` in moby's client), for the
    /// two ways that need no program beside.
    pub(crate) fn parse(text: &str, tls: bool) -> Result<Self, DockerError> {
        let error = |reason| DockerError::Host { host: text.escape_debug().to_string(), reason };
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| error("want unix://PATH or tcp://HOST:PORT"))?;
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => Err(error("the path of the socket must begin with /")),
            "https" => Err(DockerError::Tls { host: text.escape_debug().to_string() }),
            "tcp" | "http" if tls => {
                Err(DockerError::Tls { host: text.escape_debug().to_string() })
            }
            "tcp" | "http" => {
                let rest = rest.trim_end_matches('/');
                let port = rest.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                match port {
                    Some(Ok(_)) if !rest.contains(['/', '@']) => Ok(Self::Tcp(rest.to_owned())),
                    _ => Err(error("want tcp://HOST:PORT")),
                }
            }
            "ssh" => Err(error("Keepline does not connect over ssh: run it on the node itself")),
            _ => Err(error("Keepline knows unix:// and tcp:// only")),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => {
                write!(f, "unix://{}", path.display().to_string().escape_debug())
            }
            Self::Tcp(address) => write!(f, "tcp://{}", address.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_the_docker_command_takes_them() {
        let parse = |text| Host::parse(text, false).unwrap();
        assert_eq!(parse("unix:///run/docker.sock"), Host::Unix("/run/docker.sock".into()));
        assert_eq!(parse("tcp://127.0.0.1:2375"), Host::Tcp("127.0.0.1:2375".into()));
        assert_eq!(parse("tcp://[::1]:2375/"), Host::Tcp("[::1]:2375".into()));
        assert_eq!(parse("tcp://node1:2375"), Host::Tcp("node1:2375".into()));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (text, tls, part) in [
            ("/var/run/docker.sock", false, "want unix://PATH"),
            ("unix://docker.sock", false, "must begin with /"),
            ("tcp://node1", false, "want tcp://HOST:PORT"),
            ("tcp://node1:port", false, "want tcp://HOST:PORT"),
            ("tcp://node1:2375/api", false, "want tcp://HOST:PORT"),
            ("ssh://root@node1", false, "over ssh"),
            ("npipe:////./pipe/docker", false, "unix:// and tcp:// only"),
            ("tcp://node1:2376", true, "wants TLS"),
            ("https://node1:2376", false, "wants TLS"),
            ("tcp://\u{1b}[31m", false, "\\u{1b}"),
        ] {
            let error = Host::parse(text, tls).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
