//! What is told over HTTP: metrics and health to anybody on this machine, and over the control socket,
//! to root and its group, what else there is. Only the control socket takes wishes: to look now, to
//! read the file again.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::Sender},
    thread,
};

use axum::{
    Extension, Router,
    extract::{Request, State as Shared, connect_info::Connected},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use tokio::net::{TcpListener, UnixListener};

use crate::{bell::Ring, metrics::Metrics, state::State};

/// What answers need.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) state: Arc<State>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rope: Sender<Ring>,
}

/// Begins to answer, on a thread of its own.
///
/// # Errors
/// When an address or the socket cannot be listened on.
pub(crate) fn serve(
    desk: Desk,
    listen: Option<SocketAddr>,
    socket: &Path,
    group: Option<u32>,
) -> Result<(), (String, io::Error)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ("start the event loop".to_owned(), error))?;
    let (tcp, unix) = runtime.block_on(async {
        let tcp = match listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|error| (format!("listen on {address}"), error))?,
            ),
            None => None,
        };
        let unix = control(socket, group)
            .map_err(|error| (format!("listen on {}", socket.display()), error))?;
        Ok::<_, (String, io::Error)>((tcp, unix))
    })?;
    let open = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/", get(front));
    let inner = Router::new()
        .route("/status", get(status))
        .route("/look", post(look))
        .route("/reload", post(reload))
        .merge(open.clone())
        .layer(middleware::from_fn(admit))
        .layer(Extension(Admitted { group }))
        .with_state(desk.clone());
    let open = open.with_state(desk);
    let work = move || {
        runtime.block_on(async {
            if let Some(tcp) = tcp {
                tokio::spawn(async move { axum::serve(tcp, open).await });
            }
            let inner = inner.into_make_service_with_connect_info::<Peer>();
            let _ = axum::serve(unix, inner).await;
        });
    };
    thread::Builder::new()
        .name("web".to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| ("start a thread".to_owned(), error))
}

/// The control socket: a new one takes the place of what another guard left.
fn control(socket: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = PathBuf::from(format!("{}.{}", socket.display(), std::process::id()));
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    // Nobody can connect by a name that nobody knows yet.
    if let Some(group) = group {
        std::os::unix::fs::chown(&beside, None, Some(group))?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, socket)?;
    Ok(listener)
}

/// Who is at the other end of the control socket.
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: Option<u32>,
    gid: Option<u32>,
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let of = stream.io().peer_cred().ok();
        Self {
            uid: of.as_ref().map(tokio::net::unix::UCred::uid),
            gid: of.as_ref().map(tokio::net::unix::UCred::gid),
            pid: of.as_ref().and_then(tokio::net::unix::UCred::pid),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Admitted {
    group: Option<u32>,
}

impl Admitted {
    fn admits(self, peer: Peer) -> bool {
        let in_group =
            |group: u32| peer.gid == Some(group) || peer.pid.is_some_and(|it| also(it, group));
        peer.uid == Some(0) || self.group.is_some_and(in_group)
    }
}

/// Whether a process has a group besides its own.
fn also(pid: i32, group: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|it| it.parse() == Ok(group)))
}

/// The file's mode lets in root and the group; a socket that was passed on must not let in others.
async fn admit(
    Extension(admitted): Extension<Admitted>,
    axum::extract::ConnectInfo(peer): axum::extract::ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if admitted.admits(peer) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "only root and the guard's group may ask here\n").into_response()
}

async fn metrics(Shared(desk): Shared<Desk>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], desk.metrics.text()).into_response()
}

async fn health(Shared(desk): Shared<Desk>) -> Response {
    match desk.state.ails() {
        None => "well\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn front() -> &'static str {
    concat!(
        "keepline guard ",
        env!("CARGO_PKG_VERSION"),
        "\n\n/metrics   for Prometheus\n/healthz   200 while it looks in time, else 503\n\n\
         What holds where, and what was done: keepline policy, keepline status\n"
    )
}

async fn status(Shared(desk): Shared<Desk>) -> Response {
    let told = serde_json::to_string(&desk.state.told()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], told + "\n").into_response()
}

async fn look(Shared(desk): Shared<Desk>) -> Response {
    ring(&desk, Ring::Asked)
}

async fn reload(Shared(desk): Shared<Desk>) -> Response {
    ring(&desk, Ring::Reload)
}

fn ring(desk: &Desk, ring: Ring) -> Response {
    match desk.rope.send(ring) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the guard is ending\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_group_are_let_in_and_nobody_else() {
        let peer = |uid, gid| Peer { uid: Some(uid), gid: Some(gid), pid: None };
        let nobody = Peer { uid: None, gid: None, pid: None };
        for (group, who, expected) in [
            (None, peer(0, 0), true),
            (None, peer(1000, 1000), false),
            (Some(990), peer(1000, 990), true),
            (Some(990), peer(1000, 0), false),
            (Some(990), nobody, false),
        ] {
            assert_eq!(Admitted { group }.admits(who), expected, "{group:?} {who:?}");
        }
    }
}
