//! Which questions are asked, in which order, and what becomes of those that fail.

use std::{collections::HashMap, sync::Arc};

use keepline_core::snapshot::{
    Topology,
    topology::{Container, Network, Node, Service},
};
use serde_json::Value;

use crate::{
    host::Host,
    http::{Engine, RequestError},
    read,
};

/// Everything, or, when nothing came, why the containers did not.
pub(crate) async fn gather(engine: Arc<Engine>) -> Result<Topology, (Host, RequestError)> {
    // Side by side, for any of them may hang: /info waits for the storage driver, /services
    // for the other managers.
    let (version, node, containers, networks) = tokio::join!(
        engine.get("/version"),
        node(&engine),
        containers(&engine),
        networks(&engine),
    );
    if version.is_err()
        && node.is_err()
        && networks.is_err()
        && let Err(error) = containers
    {
        return Err((engine.host.clone(), error));
    }
    let mut incomplete = Vec::new();
    let node = keep("this node", node, &mut incomplete).unwrap_or_default();
    incomplete.extend(node.failed);
    let (containers, failed) = keep("containers", containers, &mut incomplete).unwrap_or_default();
    incomplete.extend(failed);
    let (networks, failed) = keep("networks", networks, &mut incomplete).unwrap_or_default();
    incomplete.extend(failed);
    let mut topology = Topology {
        engine: version.ok().as_ref().and_then(read::version).or(node.engine),
        node_id: node.about.id,
        node_name: node.about.name,
        node_address: node.about.address,
        manager: node.about.manager,
        netns_folder: None,
        containers,
        networks,
        services: node.services,
        nodes: node.nodes,
        incomplete,
    };
    read::tie(&mut topology, &node.tasks);
    Ok(topology)
}

/// The value, or nothing and a line in `incomplete`.
fn keep<T>(what: &str, result: Result<T, RequestError>, incomplete: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| incomplete.push(format!("{what}: {error}"))).ok()
}

/// What /info and, on managers, the lists of the Swarm tell.
#[derive(Default)]
struct NodeView {
    engine: Option<String>,
    about: read::About,
    services: Vec<Service>,
    nodes: Vec<Node>,
    /// By id.
    tasks: HashMap<String, read::ListedTask>,
    failed: Vec<String>,
}

async fn node(engine: &Arc<Engine>) -> Result<NodeView, RequestError> {
    let info = engine.get("/info").await?;
    if !info.is_object() {
        return Err(RequestError::Shape("an object"));
    }
    let mut view =
        NodeView { engine: read::engine(&info), about: read::about(&info), ..NodeView::default() };
    if view.about.manager {
        // Tasks that have ended are kept for a while and would only cost time:
        // {"desired-state":["running"]}.
        let (services, tasks, nodes) = tokio::join!(
            list(engine, "/services"),
            list(engine, "/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D"),
            list(engine, "/nodes"),
        );
        let failed = &mut view.failed;
        view.services = read::all(keep("services", services, failed), read::service);
        let tasks = read::all(keep("tasks", tasks, failed), read::listed_task);
        view.tasks = tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
        view.nodes = read::all(keep("nodes", nodes, failed), read::node);
    }
    Ok(view)
}

async fn containers(
    engine: &Arc<Engine>,
) -> Result<(Vec<Container>, Option<String>), RequestError> {
    let listed = list(engine, "/containers/json").await?;
    // The list has no sandbox key.
    let (parts, failed) =
        inspect(engine, "containers", listed, |_| true, |id| format!("/containers/{id}/json"))
            .await;
    let containers =
        parts.iter().filter_map(|(listed, inspected)| read::container(listed, inspected)).collect();
    Ok((containers, failed))
}

async fn networks(engine: &Arc<Engine>) -> Result<(Vec<Network>, Option<String>), RequestError> {
    let listed = list(engine, "/networks").await?;
    // Of local networks the list tells all that matters.
    let (parts, failed) = inspect(engine, "networks", listed, read::is_swarm, |id| {
        format!("/networks/{id}?verbose=true")
    })
    .await;
    let networks =
        parts.iter().filter_map(|(listed, inspected)| read::network(listed, inspected)).collect();
    Ok((networks, failed))
}

async fn list(engine: &Arc<Engine>, path: &str) -> Result<Vec<Value>, RequestError> {
    match engine.get(path).await? {
        Value::Array(items) => Ok(items),
        _ => Err(RequestError::Shape("a list")),
    }
}

/// Pairs each of `listed` with the Engine's full answer about it, `Null` where that failed or
/// was not `wanted`; those that went away meanwhile are left out. The second value says in one
/// line what failed.
async fn inspect(
    engine: &Arc<Engine>,
    what: &str,
    listed: Vec<Value>,
    wanted: impl Fn(&Value) -> bool,
    path: impl Fn(&str) -> String,
) -> (Vec<(Value, Value)>, Option<String>) {
    let asked: Vec<Option<String>> = listed
        .iter()
        .map(|item| read::id(item).filter(|_| wanted(item)).map(|id| path(&id)))
        .collect();
    let paths: Vec<String> = asked.iter().flatten().cloned().collect();
    let total = paths.len();
    let mut answers = engine.get_all(paths).await.into_iter();
    let mut parts = Vec::with_capacity(listed.len());
    let mut failures = 0_usize;
    let mut first = None;
    for (item, asked) in listed.into_iter().zip(asked) {
        let answer = if asked.is_some() { answers.next() } else { None };
        match answer {
            None => parts.push((item, Value::Null)),
            Some(Ok(inspected)) => parts.push((item, inspected)),
            Some(Err(error)) if error.is_gone() => {}
            Some(Err(error)) => {
                failures += 1;
                first.get_or_insert(error);
                parts.push((item, Value::Null));
            }
        }
    }
    let failed =
        first.map(|error| format!("{what}: {failures} of {total} could not be inspected: {error}"));
    (parts, failed)
}
