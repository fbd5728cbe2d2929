//! One request at the Engine, within the time that is left.

use std::{io, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{DockerError, host::Host};

/// No answer of a real Engine comes near this (bytes).
const BODY_LIMIT: usize = 64 << 20;

/// Requests of one kind at the same time: enough to hide the Engine's waits, few enough not to
/// press it.
const AT_ONCE: usize = 8;

/// Longest message of the Engine that is passed on (characters).
const MESSAGE_LIMIT: usize = 200;

/// Why one request gave nothing.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("no answer in time")]
    Slow,
    #[error("{}: {message}", status.as_u16())]
    Status { status: StatusCode, message: String },
    #[error("ask: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer broke off or is longer than {} MiB", BODY_LIMIT >> 20)]
    Body,
    #[error("the answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the answer is not {0}")]
    Shape(&'static str),
}

impl RequestError {
    /// What it means when all requests ended so.
    pub(crate) fn whole(self, host: Host, timeout: Duration) -> DockerError {
        let host = host.to_string();
        match self {
            Self::Connect(source) => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    DockerError::Absent { host, source }
                }
                io::ErrorKind::PermissionDenied => DockerError::Denied { host, source },
                _ => DockerError::Unusable { host, reason: format!("connect: {source}") },
            },
            Self::Slow => DockerError::Slow { host, timeout },
            other => DockerError::Unusable { host, reason: other.to_string() },
        }
    }

    /// Whether the thing asked for is not there (any more).
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// An Engine, and until when it may answer.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) host: Host,
    deadline: Instant,
}

impl Engine {
    pub(crate) fn new(host: Host, deadline: Instant) -> Arc<Self> {
        Arc::new(Self { host, deadline })
    }

    /// GETs `path` and reads the answer as JSON.
    ///
    /// Paths have no version: the Engine then answers as its newest (`VersionMiddleware` in
    /// moby's daemon/server), which every Engine allows, while any fixed version is too new for
    /// old ones (20.10 ends at 1.41) or too old for new ones (29 begins at 1.44).
    pub(crate) async fn get(&self, path: &str) -> Result<Value, RequestError> {
        let body = self.ask(Method::GET, path, None).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends `path` a request, with `content` as JSON, and gives the answer as it came.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        content: Option<&Value>,
    ) -> Result<Bytes, RequestError> {
        timeout_at(self.deadline, self.exchange(method, path, content))
            .await
            .map_err(|_elapsed| RequestError::Slow)?
    }

    /// GETs all `paths`, a few at a time; answers in the order of the paths.
    pub(crate) async fn get_all(
        self: &Arc<Self>,
        paths: Vec<String>,
    ) -> Vec<Result<Value, RequestError>> {
        let mut answers: Vec<Result<Value, RequestError>> =
            paths.iter().map(|_| Err(RequestError::Slow)).collect();
        let mut running = JoinSet::new();
        let mut paths = paths.into_iter().enumerate();
        loop {
            while running.len() < AT_ONCE {
                let Some((index, path)) = paths.next() else { break };
                let engine = Arc::clone(self);
                running.spawn(async move { (index, engine.get(&path).await) });
            }
            match running.join_next().await {
                Some(Ok((index, answer))) => answers[index] = answer,
                // A task that panicked; nothing in it does.
                Some(Err(_)) => {}
                None => return answers,
            }
        }
    }

    /// GETs `path`, whose answer goes on for as long as the Engine likes: it must begin in time.
    pub(crate) async fn open(&self, path: &str) -> Result<Incoming, RequestError> {
        let response = timeout_at(self.deadline, self.send(Method::GET, path, None))
            .await
            .map_err(|_elapsed| RequestError::Slow)??;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = timeout_at(self.deadline, whole(response.into_body()))
            .await
            .map_err(|_elapsed| RequestError::Slow)??;
        Err(RequestError::Status { status, message: message(&body) })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content: Option<&Value>,
    ) -> Result<Bytes, RequestError> {
        let response = self.send(method, path, content).await?;
        let status = response.status();
        let body = whole(response.into_body()).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(RequestError::Status { status, message: message(&body) })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<&Value>,
    ) -> Result<Response<Incoming>, RequestError> {
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::USER_AGENT, concat!("keepline/", env!("CARGO_PKG_VERSION")));
        let (builder, body) = match content {
            Some(content) => (
                builder.header(header::CONTENT_TYPE, "application/json"),
                Bytes::from(content.to_string()),
            ),
            None => (builder, Bytes::new()),
        };
        match &self.host {
            Host::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(RequestError::Connect)?;
                converse(stream, builder.header(header::HOST, "docker").body(Full::new(body))?)
                    .await
            }
            Host::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(RequestError::Connect)?;
                let request = builder.header(header::HOST, address).body(Full::new(body))?;
                converse(stream, request).await
            }
        }
    }
}

/// One connection for one request: connecting to a local socket costs microseconds, and a
/// connection that went wrong cannot spoil the next answer.
async fn converse<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, RequestError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with `sender` and the answer, or with the runtime; its error is also theirs.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

async fn whole(body: Incoming) -> Result<Bytes, RequestError> {
    let body = Limited::new(body, BODY_LIMIT).collect().await;
    Ok(body.map_err(|_broken| RequestError::Body)?.to_bytes())
}

/// The Engine says what is wrong as `{"message": …}`; others send what they like.
fn message(body: &[u8]) -> String {
    let text = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|answer| Some(answer.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    text.chars().take(MESSAGE_LIMIT).flat_map(char::escape_debug).collect()
}
