//! The Engine of a Swarm manager, to read the Swarm's objects as they are and to change its
//! services. Answers and specs are raw JSON: what another Engine version adds to a spec is
//! copied with the rest, where typed models would lose it.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use thiserror::Error;
use tokio::{runtime::Runtime, time::Instant};

use crate::{
    DEFAULT_HOST, DockerError, Options,
    host::Host,
    http::{Engine, RequestError},
};

/// Time for one request: a manager that has lost its leader answers late.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why one request came to nothing. Texts of the Engine in it are escaped.
#[derive(Debug, Error)]
pub enum CallError {
    /// The Engine refused it.
    #[error("{call}: the Engine says {status}: {message}")]
    Status {
        /// What was asked.
        call: String,
        /// HTTP status: 404 not there, 406 and 503 no manager, 409 conflict.
        status: u16,
        /// The Engine's words.
        message: String,
    },
    /// The Engine could not be asked; whether it acted is not known.
    #[error("{call}: {source}")]
    Engine {
        /// What was asked.
        call: String,
        /// What was wrong.
        source: DockerError,
    },
}

impl CallError {
    /// The HTTP status with which the Engine refused.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Engine { .. } => None,
        }
    }
}

/// A manager's Engine. Every call blocks, for at most the timeout of the options; not to be used
/// on a tokio worker.
#[derive(Debug)]
pub struct Manager {
    host: Host,
    timeout: Duration,
    runtime: Runtime,
}

impl Manager {
    /// The Engine at the address of `options`; `options.timeout` holds for each request.
    ///
    /// # Errors
    /// When the address cannot be understood. Whether somebody listens shows with the first call.
    pub fn new(options: &Options) -> Result<Self, DockerError> {
        let host = Host::parse(options.host.as_deref().unwrap_or(DEFAULT_HOST), options.tls)?;
        Ok(Self { host, timeout: options.timeout, runtime: crate::runtime()? })
    }

    /// `/info`: this node and its place in the Swarm.
    ///
    /// # Errors
    /// When the Engine does not answer or refuses.
    pub fn info(&self) -> Result<Value, CallError> {
        self.call(Method::GET, "/info", None)
    }

    /// All services.
    ///
    /// # Errors
    /// As [`Self::info`]; status 406 or 503 on a node that is no manager.
    pub fn services(&self) -> Result<Vec<Value>, CallError> {
        self.list("/services")
    }

    /// Services whose name begins with `name`.
    ///
    /// # Errors
    /// As [`Self::services`].
    pub fn services_named(&self, name: &str) -> Result<Vec<Value>, CallError> {
        self.list(&format!("/services?filters={}", filter("name", name)))
    }

    /// The service with this id.
    ///
    /// # Errors
    /// As [`Self::services`]; status 404 where there is none.
    pub fn service(&self, id: &str) -> Result<Value, CallError> {
        self.call(Method::GET, &format!("/services/{}", encode(id)), None)
    }

    /// Creates a service; gives its id.
    ///
    /// # Errors
    /// As [`Self::services`]; status 409 where the name is taken.
    pub fn create_service(&self, spec: &Value) -> Result<String, CallError> {
        let created = self.call(Method::POST, "/services/create", Some(spec))?;
        Ok(created["ID"].as_str().unwrap_or_default().to_owned())
    }

    /// Gives the service with this id another spec. `version`: the `Version.Index` that `spec` was
    /// made from.
    ///
    /// # Errors
    /// As [`Self::services`]; where the service has another version by now, status 500 as for
    /// failures of the Engine's own ("update out of sequence").
    pub fn update_service(&self, id: &str, version: u64, spec: &Value) -> Result<(), CallError> {
        let path = format!("/services/{}/update?version={version}", encode(id));
        self.call(Method::POST, &path, Some(spec)).map(drop)
    }

    /// Removes the service with this id. Its tasks stop afterwards.
    ///
    /// # Errors
    /// As [`Self::services`]; status 404 where there is none.
    pub fn remove_service(&self, id: &str) -> Result<(), CallError> {
        self.call(Method::DELETE, &format!("/services/{}", encode(id)), None).map(drop)
    }

    /// All tasks, also those that have ended and are kept.
    ///
    /// # Errors
    /// As [`Self::services`].
    pub fn tasks(&self) -> Result<Vec<Value>, CallError> {
        self.list("/tasks")
    }

    /// Tasks whose name begins with `name`. Other than the filter by service it finds those of a
    /// service that is removed.
    ///
    /// # Errors
    /// As [`Self::services`].
    pub fn tasks_named(&self, name: &str) -> Result<Vec<Value>, CallError> {
        self.list(&format!("/tasks?filters={}", filter("name", name)))
    }

    /// All nodes.
    ///
    /// # Errors
    /// As [`Self::services`].
    pub fn nodes(&self) -> Result<Vec<Value>, CallError> {
        self.list("/nodes")
    }

    /// All networks that the Swarm or this node knows.
    ///
    /// # Errors
    /// As [`Self::info`].
    pub fn networks(&self) -> Result<Vec<Value>, CallError> {
        self.list("/networks")
    }

    /// A network with its services and tasks, where this node has it (`verbose`).
    ///
    /// # Errors
    /// As [`Self::info`]; status 404 where there is none.
    pub fn network(&self, id: &str) -> Result<Value, CallError> {
        self.call(Method::GET, &format!("/networks/{}?verbose=true", encode(id)), None)
    }

    /// All secrets, without their contents.
    ///
    /// # Errors
    /// As [`Self::services`].
    pub fn secrets(&self) -> Result<Vec<Value>, CallError> {
        self.list("/secrets")
    }

    /// All configs.
    ///
    /// # Errors
    /// As [`Self::services`].
    pub fn configs(&self) -> Result<Vec<Value>, CallError> {
        self.list("/configs")
    }

    /// Running containers of this node.
    ///
    /// # Errors
    /// As [`Self::info`].
    pub fn containers(&self) -> Result<Vec<Value>, CallError> {
        self.list("/containers/json")
    }

    /// A container of this node.
    ///
    /// # Errors
    /// As [`Self::info`]; status 404 where there is none.
    pub fn container(&self, id: &str) -> Result<Value, CallError> {
        self.call(Method::GET, &format!("/containers/{}/json", encode(id)), None)
    }

    fn list(&self, path: &str) -> Result<Vec<Value>, CallError> {
        match self.call(Method::GET, path, None)? {
            Value::Array(items) => Ok(items),
            _ => Err(self.failed(&Method::GET, path, RequestError::Shape("a list"))),
        }
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        content: Option<&Value>,
    ) -> Result<Value, CallError> {
        let answer = self.runtime.block_on(async {
            let engine = Engine::new(self.host.clone(), Instant::now() + self.timeout);
            engine.ask(method.clone(), path, content).await
        });
        answer
            .and_then(|body| match body.is_empty() {
                true => Ok(Value::Null),
                false => Ok(serde_json::from_slice(&body)?),
            })
            .map_err(|error| self.failed(&method, path, error))
    }

    fn failed(&self, method: &Method, path: &str, error: RequestError) -> CallError {
        let path = path.split('?').next().unwrap_or(path);
        let call = format!("{method} {path}");
        match error {
            RequestError::Status { status, message } => {
                CallError::Status { call, status: status.as_u16(), message }
            }
            other => {
                CallError::Engine { call, source: other.whole(self.host.clone(), self.timeout) }
            }
        }
    }
}

/// A `filters` parameter with one condition.
fn filter(key: &str, value: &str) -> String {
    encode(&serde_json::json!({ key: [value] }).to_string())
}

/// As a part of a path or query (RFC 3986, section 2.1).
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
