//! Before anything is changed: what speaks against it, each with its reason and the way out.

mod room;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::engine::text;
use crate::{Mode, Service, Surroundings, Task, spec};

/// What the user may allow though it is refused otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allow {
    /// Two tasks that write to the same volume, or a copy that begins with an empty one.
    Volumes,
    /// Host ports that nobody listens at for a while.
    HostPorts,
    /// A second task on every node.
    Global,
    /// A stack whose file says otherwise.
    Stack,
}

impl Allow {
    /// As the command line writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::HostPorts => "host-ports",
            Self::Global => "global",
            Self::Stack => "stack",
        }
    }
}

/// One thing that speaks against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What, and why that matters.
    pub what: String,
    /// Ways out, one a line; a line that begins with two spaces is to be copied.
    pub help: Vec<String>,
}

/// What preflight found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What speaks against it; empty: it may begin.
    pub refusals: Vec<Refusal>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Report {
    fn refuse<const N: usize>(&mut self, what: impl Into<String>, help: [&str; N]) {
        let help = help.into_iter().map(str::to_owned).collect();
        self.refusals.push(Refusal { what: what.into(), help });
    }
}

/// Looks at everything before the first step. `tasks`: those of the service.
#[must_use]
pub fn look(
    service: &Service,
    to: Mode,
    tasks: &[Task],
    around: &Surroundings,
    allowed: &BTreeSet<Allow>,
) -> Report {
    let mut report = Report::default();
    if service.mode() == to {
        report.refuse(
            format!("{} is in mode {to} already", service.name()),
            ["there is nothing to do"],
        );
        return report;
    }
    kind(service, allowed, &mut report);
    state(service, tasks, &mut report);
    ports(service, to, allowed, &mut report);
    volumes(service, allowed, &mut report);
    references(service, around, &mut report);
    copy_name(service, around, &mut report);
    stack(service, to, allowed, &mut report);
    if report.refusals.is_empty() {
        let lacking = room::lacking(service, around);
        if let Some(what) = lacking {
            report.refuse(
                what,
                ["make room (more nodes, smaller reservations, fewer replicas), then try again"],
            );
        }
    }
    notes(service, to, around, &mut report);
    report
}

fn kind(service: &Service, allowed: &BTreeSet<Allow>, report: &mut Report) {
    let name = service.name();
    let mode = &service.spec["Mode"];
    if !service.spec["TaskTemplate"]["ContainerSpec"].is_object() {
        report.refuse(
            format!("{name} does not run containers: nothing resolves its name"),
            ["migrate works for services of containers"],
        );
    } else if mode.get("ReplicatedJob").is_some() || mode.get("GlobalJob").is_some() {
        report.refuse(
            format!("{name} is a job: a copy would do its work twice"),
            ["create it again with --endpoint-mode when it has ended"],
        );
    } else if mode.get("Global").is_some() && !allowed.contains(&Allow::Global) {
        report.refuse(
            format!("{name} is global: its copy puts a second task on every node"),
            [
                "allow that where every node has room for two:",
                "  --allow global",
                "or stop the loss without a change of mode:",
                &apply(name),
            ],
        );
    }
}

/// The strategies that need no migration.
fn apply(service: &str) -> String {
    format!("  keepline apply hold --service {service}")
}

fn state(service: &Service, tasks: &[Task], report: &mut Report) {
    let name = service.name();
    if let Some(update) = &service.update
        && matches!(update.as_str(), "updating" | "paused" | "rollback_started" | "rollback_paused")
    {
        report.refuse(
            format!("an update of {name} is in progress ({update})"),
            [
                "wait until it has ended, or go back to the spec before:",
                &format!("  docker service rollback {name}"),
            ],
        );
        return;
    }
    let running = tasks.iter().filter(|task| task.service == service.id && task.serves()).count();
    let wanted = spec::replicas(&service.spec)
        .map_or(1, |replicas| usize::try_from(replicas).unwrap_or(usize::MAX));
    if wanted == 0 {
        report.refuse(
            format!("{name} has no tasks (0 replicas): there is nothing to keep alive"),
            [
                "give it one first:",
                &format!("  docker service scale {name}=1"),
                "or remove it and create it again with --endpoint-mode",
            ],
        );
    } else if running < wanted {
        report.refuse(
            format!("{running} of {wanted} tasks of {name} run: a copy would fare no better"),
            ["see what is wrong with it first:", &format!("  docker service ps --no-trunc {name}")],
        );
    }
}

fn ports(service: &Service, to: Mode, allowed: &BTreeSet<Allow>, report: &mut Report) {
    let name = service.name();
    let ports = service.spec["EndpointSpec"]["Ports"].as_array();
    let (host, ingress): (Vec<&Value>, Vec<&Value>) =
        ports.into_iter().flatten().partition(|port| port["PublishMode"] == "host");
    if to == Mode::Dnsrr && !ingress.is_empty() {
        let list: Vec<String> =
            ingress.iter().map(|port| port["PublishedPort"].to_string()).collect();
        let mut change = format!("  docker service update {name}");
        for port in &ingress {
            let (target, published) = (&port["TargetPort"], &port["PublishedPort"]);
            let protocol = text(&port["Protocol"]).unwrap_or_else(|| "tcp".to_owned());
            change.push_str(&format!(
                " --publish-rm {target}/{protocol} --publish-add \
                 mode=host,target={target},published={published},protocol={protocol}"
            ));
        }
        report.refuse(
            format!(
                "{name} publishes port {} on the ingress network, which a dnsrr service cannot",
                list.join(", ")
            ),
            [
                "publish on the nodes that run its tasks instead, and migrate then:",
                &change,
                "or stop the loss without a change of mode:",
                &apply(name),
            ],
        );
    }
    let fixed: Vec<String> = host
        .iter()
        .filter(|port| port["PublishedPort"].as_u64().is_some_and(|port| port > 0))
        .map(|port| port["PublishedPort"].to_string())
        .collect();
    if fixed.is_empty() {
        return;
    }
    let list = fixed.join(", ");
    if allowed.contains(&Allow::HostPorts) {
        report.notes.push(format!(
            "nobody listens at host port {list} from the removal of {name} until its new tasks run: \
             the copy does not publish"
        ));
    } else {
        report.refuse(
            format!(
                "{name} publishes host port {list}, which two tasks on one node cannot share: nobody \
                 would listen there from the removal of {name} until its new tasks run"
            ),
            ["allow that where clients come through the networks only:", "  --allow host-ports"],
        );
    }
}

/// Mounts that a task writes to and that are there after it.
fn volumes(service: &Service, allowed: &BTreeSet<Allow>, report: &mut Report) {
    let mounts = service.spec["TaskTemplate"]["ContainerSpec"]["Mounts"].as_array();
    let written: Vec<String> = mounts
        .into_iter()
        .flatten()
        .filter(|mount| mount["ReadOnly"] != true && mount["Type"] != "tmpfs")
        // A volume without a name is each container's own.
        .filter_map(|mount| text(&mount["Source"]))
        .collect();
    if written.is_empty() || allowed.contains(&Allow::Volumes) {
        return;
    }
    let name = service.name();
    report.refuse(
        format!(
            "tasks of {name} write to {}: the copy would write there at the same time, or begin \
             with an empty volume on another node",
            written.join(", ")
        ),
        [
            "allow that where the program can share them:",
            "  --allow volumes",
            "or stop the loss without a change of mode:",
            &apply(name),
        ],
    );
}

/// Everything that the spec names must be there still: the service lives without it, a new one
/// would not.
fn references(service: &Service, around: &Surroundings, report: &mut Report) {
    let name = service.name();
    let container = &service.spec["TaskTemplate"]["ContainerSpec"];
    for (kind, list, key, known) in [
        ("secret", &container["Secrets"], "SecretID", &around.secrets),
        ("config", &container["Configs"], "ConfigID", &around.configs),
    ] {
        for id in list.as_array().into_iter().flatten().filter_map(|it| text(&it[key])) {
            if !known.contains(&id) {
                report.refuse(
                    format!("{name} uses the {kind} {id}, which is not there any more"),
                    ["take it out of the service, or create it again, first"],
                );
            }
        }
    }
    let mut resolving = 0;
    for id in spec::networks(&service.spec) {
        match around.networks.iter().find(|network| network.id == id) {
            Some(network) => resolving += usize::from(network.resolves),
            None => report.refuse(
                format!("{name} is in the network {id}, which is not there any more"),
                ["take it out of the network first"],
            ),
        }
    }
    if resolving == 0 {
        report.refuse(
            format!("{name} is in no overlay network: nobody resolves its name"),
            ["the endpoint mode makes no difference to it"],
        );
    }
}

fn copy_name(service: &Service, around: &Surroundings, report: &mut Report) {
    let name = service.name();
    let copy = spec::copy_name(name);
    let Some(taken) = around.services.iter().find(|service| service.name() == copy) else { return };
    match crate::state::State::read(&taken.spec, name) {
        Some(state) => report.refuse(
            format!("a migration of {name} to {} has begun and not ended", state.to),
            [
                "go on with it, or go back:",
                &format!("  keepline migrate {name} --resume"),
                &format!("  keepline migrate {name} --rollback"),
            ],
        ),
        None => report.refuse(
            format!("there is a service named {copy}, the name that the copy would have"),
            ["Keepline did not make it: remove it if it is of no use"],
        ),
    }
}

fn stack(service: &Service, to: Mode, allowed: &BTreeSet<Allow>, report: &mut Report) {
    let name = service.name();
    let Some(stack) = text(&service.spec["Labels"]["com.docker.stack.namespace"]) else { return };
    let own = name.strip_prefix(&format!("{stack}_")).unwrap_or(name);
    let lines = [
        "  services:".to_owned(),
        format!("    {own}:"),
        "      deploy:".to_owned(),
        format!("        endpoint_mode: {to}"),
    ];
    if allowed.contains(&Allow::Stack) {
        report.notes.push(format!(
            "the file of stack {stack} must say `endpoint_mode: {to}` under deploy of {own} before it \
             is deployed again"
        ));
        return;
    }
    let [services, service, deploy, mode] = &lines;
    report.refuse(
        format!(
            "{name} belongs to the stack {stack}: its next deploy would change the mode back in \
             place, which leaves stale names"
        ),
        [
            "put these lines into its file, do not deploy it before the migration has ended, and \
             say so:",
            services,
            service,
            deploy,
            mode,
            "  --allow stack",
        ],
    );
}

fn notes(service: &Service, to: Mode, around: &Surroundings, report: &mut Report) {
    let name = service.name();
    let copy = spec::copy_name(name);
    if ["{{.Service", "{{ .Service", "{{.Task", "{{ .Task"]
        .iter()
        .any(|template| service.spec["TaskTemplate"].to_string().contains(template))
    {
        report.notes.push(format!(
            "its spec has placeholders such as {{{{.Service.Name}}}}: in the copy they give {copy}"
        ));
    }
    if to == Mode::Dnsrr {
        report.notes.push(
            "while the last old task stops (2 s and its stop grace period) the Engine answers with \
             the old VIP beside the copy's addresses, though nobody is behind it: a client that \
             tries only the first address can be refused, one that tries all is not"
                .to_owned(),
        );
    }
    let check = &service.spec["TaskTemplate"]["ContainerSpec"]["Healthcheck"]["Test"];
    if check.as_array().is_none_or(Vec::is_empty) {
        report.notes.push(
            "its spec has no health check: unless its image has one, the name leads to a new task \
             as soon as its program starts, which may be before it listens"
                .to_owned(),
        );
    }
    let networks = spec::networks(&service.spec);
    for other in around.services.iter().filter(|other| other.id != service.id) {
        let lists = [&other.spec["TaskTemplate"]["Networks"], &other.spec["Networks"]];
        let mut shared =
            lists.into_iter().filter_map(Value::as_array).flatten().filter(|network| {
                network["Target"].as_str().is_some_and(|id| networks.contains(&id))
                    && network["Aliases"]
                        .as_array()
                        .is_some_and(|all| all.iter().any(|it| it == name))
            });
        if shared.next().is_some() && other.name() != copy {
            report.notes.push(format!("{} has the alias {name} too", other.name()));
        }
    }
    report.notes.push(
        "open sessions to the service end when its old tasks stop; names are cached for up to 600 s \
         by clients that heed the Engine's TTL, for longer by those that never ask again"
            .to_owned(),
    );
    report.notes.push(format!(
        "the new {name} has another id, and `docker service rollback` cannot go back before it"
    ));
}
