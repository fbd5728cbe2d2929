//! From the Engine's answers to the topology. Every field may be absent, null or of another
//! type: [`Value`] then gives `Null`, and the field stays empty. Nothing here fails.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use keepline_core::{
    policy,
    snapshot::{
        Topology,
        topology::{
            Attachment, Container, EndpointMode, Named, Network, NetworkService, Node, Port,
            Service, Subnet, Task, Vip,
        },
    },
};
use serde_json::Value;

#[cfg(test)]
mod tests;

/// What /info tells of this node.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) manager: bool,
}

/// A text that is there.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// An id of an object. Ids become parts of paths and file names: nothing but letters and digits
/// is one.
fn clean_id(value: &Value) -> Option<String> {
    text(value).filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// The id of a container or network.
pub(crate) fn id(item: &Value) -> Option<String> {
    clean_id(&item["Id"])
}

/// An address, with or without a prefix length. Not set is `""`, `<nil>`, `0.0.0.0` or
/// `invalid IP`, by Engine and place.
fn address(value: &Value) -> Option<IpAddr> {
    let text = value.as_str()?;
    let text = text.split_once('/').map_or(text, |(address, _prefix)| address);
    text.parse().ok().filter(|address: &IpAddr| !address.is_unspecified())
}

fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    value.as_u64().and_then(|number| T::try_from(number).ok())
}

/// The members of an object; none for anything else.
fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The elements of a list; none for anything else.
fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The labels that concern Keepline.
fn own_labels(labels: &Value) -> BTreeMap<String, String> {
    let texts = members(labels).filter_map(|(key, value)| Some((key, value.as_str()?)));
    texts
        .filter(|(key, _)| key.starts_with(policy::LABEL))
        .map(|(key, value)| (key.clone(), value.to_owned()))
        .collect()
}

/// Reads all elements that can be read.
pub(crate) fn all<T>(list: Option<Vec<Value>>, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    list.unwrap_or_default().iter().filter_map(read).collect()
}

pub(crate) fn version(answer: &Value) -> Option<String> {
    text(&answer["Version"])
}

pub(crate) fn engine(info: &Value) -> Option<String> {
    text(&info["ServerVersion"])
}

pub(crate) fn about(info: &Value) -> About {
    let swarm = &info["Swarm"];
    About {
        id: text(&swarm["NodeID"]),
        name: text(&info["Name"]),
        address: address(&swarm["NodeAddr"]),
        manager: swarm["ControlAvailable"] == true,
    }
}

/// A container from `/containers/json` and, where that came, `/containers/{id}/json`.
pub(crate) fn container(listed: &Value, inspected: &Value) -> Option<Container> {
    let id = id(listed)?;
    let short = || id.chars().take(12).collect();
    // Names of links have a second slash.
    let name = text(&inspected["Name"]).or_else(|| {
        elements(&listed["Names"])
            .filter_map(text)
            .find(|name| name.rfind('/').is_none_or(|slash| slash == 0))
    });
    let name = name.map_or_else(short, |name| name.trim_start_matches('/').to_owned());
    let labels = match &listed["Labels"] {
        Value::Null => &inspected["Config"]["Labels"],
        labels => labels,
    };
    let label = |key: &str| text(&labels[key]);
    let swarm = |key: &str| label(&format!("com.docker.swarm.{key}"));
    let named = |what: &str| {
        Some(Named { id: swarm(&format!("{what}.id"))?, name: swarm(&format!("{what}.name"))? })
    };
    let mode = text(&inspected["HostConfig"]["NetworkMode"])
        .or_else(|| text(&listed["HostConfig"]["NetworkMode"]))
        .unwrap_or_default();
    let settings = &inspected["NetworkSettings"];
    let sandbox = text(&settings["SandboxKey"]).filter(|path| path.starts_with('/'));
    // The host's namespace has the fixed key `default` (moby's libnetwork: Sandbox.Key), also
    // for tasks, whose mode does not tell.
    let host_network =
        mode == "host" || sandbox.as_deref().is_some_and(|path| path.ends_with("/default"));
    let networks = match &settings["Networks"] {
        Value::Null => &listed["NetworkSettings"]["Networks"],
        networks => networks,
    };
    Some(Container {
        name,
        sandbox,
        host_network,
        shares: mode.strip_prefix("container:").map(str::to_owned),
        service: named("service"),
        task: named("task"),
        stack: label("com.docker.stack.namespace"),
        node: swarm("node.id"),
        labels: own_labels(labels),
        networks: members(networks).filter_map(attachment).collect(),
        id,
    })
}

fn attachment((name, endpoint): (&String, &Value)) -> Option<Attachment> {
    Some(Attachment {
        network: clean_id(&endpoint["NetworkID"])?,
        name: name.clone(),
        addresses: [&endpoint["IPAddress"], &endpoint["GlobalIPv6Address"]]
            .into_iter()
            .filter_map(address)
            .collect(),
    })
}

/// Whether a network is the Swarm's: only those have services.
pub(crate) fn is_swarm(listed: &Value) -> bool {
    listed["Scope"] == "swarm"
}

/// A network from `/networks` and, where that came, `/networks/{id}?verbose=true`.
pub(crate) fn network(listed: &Value, inspected: &Value) -> Option<Network> {
    let id = id(listed)?;
    let name = text(&listed["Name"]).unwrap_or_else(|| id.clone());
    let driver = text(&listed["Driver"]).unwrap_or_default();
    let options = &listed["Options"];
    let ingress = listed["Ingress"] == true;
    let first = |count| id.chars().take(count).collect::<String>();
    let balanced = driver == "overlay" && is_swarm(listed);
    Some(Network {
        ingress,
        dsr: options.get("dsr").is_some(),
        lb_namespace: balanced.then(|| match ingress {
            true => "ingress_sbox".to_owned(),
            false => format!("lb_{}", first(9)),
        }),
        overlay_namespace: balanced.then(|| format!("1-{}", first(10))),
        // Without a name of its own a bridge is called after the id (moby's bridge driver).
        bridge: (driver == "bridge").then(|| {
            text(&options["com.docker.network.bridge.name"])
                .unwrap_or_else(|| format!("br-{}", first(12)))
        }),
        lb_address: lb_address(&name, &inspected["Containers"]),
        subnets: elements(&listed["IPAM"]["Config"]).filter_map(subnet).collect(),
        // They stand under the empty name.
        attached: elements(&inspected["Services"][""]["Tasks"])
            .filter_map(|endpoint| address(&endpoint["EndpointIP"]))
            .collect(),
        labels: own_labels(&listed["Labels"]),
        services: members(&inspected["Services"]).filter_map(network_service).collect(),
        id,
        name,
        driver,
    })
}

fn subnet(value: &Value) -> Option<Subnet> {
    let (address, prefix) = value["Subnet"].as_str()?.split_once('/')?;
    Some(Subnet { address: address.parse().ok()?, prefix: prefix.parse().ok()? })
}

/// The director appears among the containers of its network.
fn lb_address(network: &str, containers: &Value) -> Option<IpAddr> {
    let own = format!("lb-{network}");
    members(containers)
        .find(|(key, _)| **key == own || *key == "ingress-sbox")
        .and_then(|(_, endpoint)| address(&endpoint["IPv4Address"]))
}

fn network_service((name, service): (&String, &Value)) -> Option<NetworkService> {
    if name.is_empty() {
        return None;
    }
    Some(NetworkService {
        name: name.clone(),
        vip: address(&service["VIP"]),
        // Marks begin at 256 (fwMarkCtr in moby's libnetwork); 0 is none.
        fwmark: number(&service["LocalLBIndex"]).filter(|mark| *mark != 0),
        ports: elements(&service["Ports"]).filter_map(ingress_port).collect(),
        tasks: elements(&service["Tasks"]).filter_map(task).collect(),
        idle: false,
    })
}

/// `Target: 7000, Publish: 8080` (`Network.Services` in moby's libnetwork).
fn ingress_port(value: &Value) -> Option<Port> {
    let (target, published) =
        value.as_str()?.strip_prefix("Target: ")?.split_once(", Publish: ")?;
    Some(Port {
        published: published.parse().ok()?,
        target: target.parse().ok()?,
        protocol: None,
        host_mode: false,
    })
}

fn task(value: &Value) -> Option<Task> {
    Some(Task {
        name: text(&value["Name"])?,
        address: address(&value["EndpointIP"])?,
        host: address(&value["Info"]["Host IP"]),
        node: None,
        endpoint: text(&value["EndpointID"]),
    })
}

/// One of `/services`.
pub(crate) fn service(value: &Value) -> Option<Service> {
    let spec = &value["Spec"];
    let endpoint = &value["Endpoint"];
    let mode = text(&endpoint["Spec"]["Mode"]).or_else(|| text(&spec["EndpointSpec"]["Mode"]));
    Some(Service {
        id: Some(clean_id(&value["ID"])?),
        name: text(&spec["Name"])?,
        mode: match mode.as_deref() {
            // A service that does not say has a VIP (Engine API, EndpointSpec).
            None | Some("vip") => Some(EndpointMode::Vip),
            Some("dnsrr") => Some(EndpointMode::Dnsrr),
            Some(_) => None,
        },
        ports: elements(&endpoint["Ports"]).filter_map(service_port).collect(),
        vips: elements(&endpoint["VirtualIPs"]).filter_map(vip).collect(),
        labels: own_labels(&spec["Labels"]),
    })
}

fn vip(value: &Value) -> Option<Vip> {
    Some(Vip { network: clean_id(&value["NetworkID"])?, address: address(&value["Addr"])? })
}

fn service_port(value: &Value) -> Option<Port> {
    Some(Port {
        published: number(&value["PublishedPort"])?,
        target: number(&value["TargetPort"])?,
        protocol: text(&value["Protocol"]),
        host_mode: value["PublishMode"] == "host",
    })
}

/// One of `/tasks`.
#[derive(Debug)]
pub(crate) struct ListedTask {
    pub(crate) id: String,
    node: Option<String>,
    service: Option<String>,
    running: bool,
}

pub(crate) fn listed_task(value: &Value) -> Option<ListedTask> {
    Some(ListedTask {
        id: text(&value["ID"])?,
        node: text(&value["NodeID"]),
        service: text(&value["ServiceID"]),
        running: value["Status"]["State"] == "running",
    })
}

/// One of `/nodes`.
pub(crate) fn node(value: &Value) -> Option<Node> {
    let manager = value["ManagerStatus"]["Addr"].as_str();
    Some(Node {
        id: text(&value["ID"])?,
        hostname: text(&value["Description"]["Hostname"])?,
        // The first manager may know itself as 0.0.0.0.
        address: address(&value["Status"]["Addr"])
            .or_else(|| Some(manager?.parse::<SocketAddr>().ok()?.ip())),
    })
}

/// Ties the parts to each other. `tasks`: by id, those that are to run.
pub(crate) fn tie(topology: &mut Topology, tasks: &HashMap<String, ListedTask>) {
    share_sandboxes(topology);
    topology.netns_folder = topology
        .containers
        .iter()
        .find_map(|container| Some(container.sandbox.as_deref()?.rsplit_once('/')?.0.to_owned()));
    add_services(topology);
    add_idle(topology, tasks);
    let mut networks = std::mem::take(&mut topology.networks);
    for network in &mut networks {
        for task in network.services.iter_mut().flat_map(|service| &mut service.tasks) {
            let id = task.name.rsplit('.').next().unwrap_or_default();
            let node = tasks.get(id).and_then(|task| task.node.as_deref());
            task.node = topology.node_name_of(node, task.host).map(str::to_owned);
        }
    }
    topology.networks = networks;
}

/// A container in another's namespace has no sandbox key of its own.
fn share_sandboxes(topology: &mut Topology) {
    let owners: BTreeMap<String, (String, bool)> = topology
        .containers
        .iter()
        .filter_map(|owner| Some((owner.id.clone(), (owner.sandbox.clone()?, owner.host_network))))
        .collect();
    for container in &mut topology.containers {
        if let Some((sandbox, host)) = container.shares.as_ref().and_then(|id| owners.get(id)) {
            container.sandbox = Some(sandbox.clone());
            container.host_network = *host;
        }
    }
}

/// Services that have an address in a network while no task of theirs runs: a network's own list
/// leaves them out. Where something was not told, one that has tasks would be taken for such.
fn add_idle(topology: &mut Topology, tasks: &HashMap<String, ListedTask>) {
    if !topology.incomplete.is_empty() {
        return;
    }
    let running: HashSet<&str> = tasks
        .values()
        .filter(|task| task.running)
        .filter_map(|task| task.service.as_deref())
        .collect();
    let is_idle =
        |service: &&Service| service.id.as_deref().is_some_and(|id| !running.contains(id));
    for network in topology.networks.iter_mut().filter(|it| it.lb_namespace.is_some()) {
        for service in topology.services.iter().filter(is_idle) {
            let Some(vip) = service.vips.iter().find(|it| it.network == network.id) else {
                continue;
            };
            match network.services.iter_mut().find(|it| it.name == service.name) {
                Some(listed) => listed.idle = true,
                None => network.services.push(NetworkService {
                    name: service.name.clone(),
                    vip: Some(vip.address),
                    fwmark: None,
                    ports: vec![],
                    tasks: vec![],
                    idle: true,
                }),
            }
        }
    }
}

/// Services that were not listed, as on any worker, from what networks and containers show.
fn add_services(topology: &mut Topology) {
    let mut seen: BTreeMap<&str, Service> = BTreeMap::new();
    let new = |name: &str| Service {
        id: None,
        name: name.to_owned(),
        mode: None,
        ports: vec![],
        vips: vec![],
        labels: BTreeMap::new(),
    };
    for network in &topology.networks {
        for service in &network.services {
            let seen = seen.entry(&service.name).or_insert_with(|| new(&service.name));
            seen.ports.extend_from_slice(&service.ports);
            // A VIP in any network decides; in the ingress network every service has one.
            if service.vip.is_some() && !network.ingress {
                seen.mode = Some(EndpointMode::Vip);
            } else if !network.ingress {
                seen.mode.get_or_insert(EndpointMode::Dnsrr);
            }
        }
    }
    for container in &topology.containers {
        let Some(service) = &container.service else { continue };
        let seen = seen.entry(&service.name).or_insert_with(|| new(&service.name));
        seen.id = Some(service.id.clone());
        let labels = container.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
        seen.labels.extend(labels);
    }
    let known = |name: &str| topology.services.iter().any(|service| service.name == name);
    let added: Vec<Service> = seen.into_values().filter(|service| !known(&service.name)).collect();
    topology.services.extend(added);
}
