//! The Swarm for all scenarios of this process: two nodes, one overlay network, three services.
//!
//! | service | node | |
//! |---|---|---|
//! | `app` | node1 | where clients run |
//! | `db` | node1 | the backend beside the client |
//! | `far` | node2 | the backend on the other node |

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use keepline_swarm_tests::{Guest, Guests, oracle};

use crate::check::Check;

/// What the Engine may take for something in guests that are emulated on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(400);

/// For the head of a script: `guest.sh` has what scripts share.
const HEAD: &str = ". /payload/guest.sh\n";

/// Ends the sessions of earlier scenarios, also what is left of them at backends that nobody told,
/// and gives directors their usual timeouts.
const CLEAR: &str = r#"
rm -f /run/look
for namespace in /var/run/docker/netns/* /proc/1/ns/net; do
  case $namespace in
  */1-*) continue ;;
  */lb_* | */ingress_sbox) times="ipvsadm --set 900 120 300" ;;
  *) times=true ;;
  esac
  nsenter --net="$namespace" sh -c "ss -tK '( sport = :7000 or dport = :7000 or dport = :8080 or dport = :8081 or dport = :8082 )' >/dev/null; $times"
done
pkill -f '(session|crowd|visits|load|visitors|watch)[.]py'
pkill -f '^keepline (apply|migrate|guard)'
true
"#;

/// After a scenario that failed in its midst, so that those behind it do not fail by what it left:
/// what Keepline changed, on every node.
const TAKE_BACK: &str = "keepline undo --yes || true";

/// The same of services, on the manager: those of other scenarios are made anew by who needs them.
const SERVICES_AS_AT_FIRST: &str = r#"
others() { docker service ls --format '{{.Name}}' | grep -vxE 'app|db|far'; }
for service in $(others); do docker service rm "$service" || true; done >/dev/null
none_left() { ! others | grep -q . && [ -z "$(engine /containers/json |
  grep -oE '"com.docker.swarm.service.name":"[^"]+"' | grep -vE '"(app|db|far)"$')" ]; }
wait_for none_left
docker service scale --detach app=1 db=1 far=1 >/dev/null
"#;

/// Whether a scenario has failed since the Swarm was last made as it was at first.
static TAINTED: AtomicBool = AtomicBool::new(false);

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            TAINTED.store(true, Ordering::Relaxed);
        }
    }
}

/// A two-node Swarm, and the right to it: one scenario at a time.
pub struct Ground {
    guests: &'static Guests,
    _turn: MutexGuard<'static, ()>,
}

/// A container as the Engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    /// `db.1.<id of the task>`: also the name of the task.
    pub name: String,
}

/// The Swarm, made by the first who asks.
///
/// # Panics
/// It could not be made; every scenario says why.
pub fn ground() -> Ground {
    static TURN: Mutex<()> = Mutex::new(());
    static GUESTS: OnceLock<Result<Guests, String>> = OnceLock::new();
    // What a scenario leaves, whether it failed or not, is cleared away below.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let guests = GUESTS.get_or_init(make).as_ref().unwrap_or_else(|error| panic!("{error}"));
    let ground = Ground { guests, _turn: turn };
    let tainted = TAINTED.swap(false, Ordering::Relaxed);
    let take_back = if tainted { TAKE_BACK } else { "" };
    std::thread::scope(|scope| {
        for node in [1, 2] {
            let ground = &ground;
            scope.spawn(move || ground.run(node, &format!("{CLEAR}{take_back}")));
        }
    });
    if tainted {
        let restore = format!("{SERVICES_AS_AT_FIRST}{}", running(&["app", "db", "far"]));
        ground.run(1, &restore);
    }
    ground
}

fn make() -> Result<Guests, String> {
    let binary = std::env::var_os("KEEPLINE_BIN")
        .map(PathBuf::from)
        .ok_or("KEEPLINE_BIN names no release binary: `make test` builds one and sets it")?;
    let payload = tempfile::tempdir().map_err(|error| error.to_string())?;
    std::fs::copy(&binary, payload.path().join("keepline"))
        .map_err(|error| format!("KEEPLINE_BIN={}: {error}", binary.display()))?;
    for (name, text) in [
        ("session.py", include_str!("session.py")),
        ("crowd.py", include_str!("crowd.py")),
        ("visits.py", include_str!("visits.py")),
        ("load.py", include_str!("load.py")),
        ("guest.sh", include_str!("guest.sh")),
        ("visitors.py", include_str!("visitors.py")),
        ("watch.py", include_str!("watch.py")),
        ("kill_at.py", include_str!("kill_at.py")),
        ("Dockerfile", include_str!("../../../../packaging/container/Dockerfile")),
        ("stack.yml", include_str!("../../../../packaging/swarm/stack.yml")),
        ("launcher.yml", include_str!("../../../../packaging/swarm/launcher.yml")),
        ("config.toml", include_str!("../../../../packaging/config.toml")),
        ("article.sh", include_str!("article.sh")),
    ] {
        std::fs::write(payload.path().join(name), text).map_err(|error| error.to_string())?;
    }
    let started = Instant::now();
    let services = format!(
        "{HEAD}docker network create -d overlay net1\n{}{}{}{}",
        create("app", "--network net1 --constraint node.hostname==node1"),
        create("db", "--network net1 --constraint node.hostname==node1"),
        create("far", "--network net1 --constraint node.hostname==node2"),
        running(&["app", "db", "far"]),
    );
    let done = |what: &str| println!("{what} after {:.0} s", started.elapsed().as_secs_f32());
    let guests = Guests::prepared(2, Some(payload.path()), |guests| {
        done("booted");
        guests.swarm()?;
        done("a Swarm");
        guests.node(1).ok_within(&services, PATIENCE)?;
        done("services");
        Ok(())
    });
    guests.map_err(|error| error.to_string())
}

/// Creates a service of echo servers at port 7000. It ends at once on SIGTERM.
fn create(name: &str, options: &str) -> String {
    format!(
        "docker service create -q --detach --no-resolve-image --stop-grace-period 1s \
         --name {name} {options} peer python3 /peer.py serve 7000 >/dev/null\n"
    )
}

/// Waits until every task that these services should have is running.
fn running(services: &[&str]) -> String {
    format!("wait_for all_run {} '{services:?}'\n", services.len())
}

/// Leaves a trace of what was done, and how long it took, in the test's output.
fn told(node: u8, started: Instant, script: &str) {
    let first = script.trim_start().lines().next().unwrap_or_default();
    println!("node{node} {:5.1} s  {first}", started.elapsed().as_secs_f32());
}

impl Ground {
    pub fn node(&self, number: u8) -> &'static Guest {
        self.guests.node(number)
    }

    /// Runs a script that must succeed in a node; gives its output.
    pub fn run(&self, node: u8, script: &str) -> String {
        self.run_within(node, script, PATIENCE)
    }

    /// The same for a script that takes longer than anything else.
    pub fn run_within(&self, node: u8, script: &str, limit: Duration) -> String {
        let started = Instant::now();
        let output = self.node(node).ok_within(&format!("{HEAD}{script}"), limit);
        told(node, started, script);
        output.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Resets a node. Only what is on its disk is there again.
    pub fn reboot(&self, node: u8) {
        self.node(node).reboot().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Creates a service, unless an earlier scenario did, and waits for its tasks.
    pub fn service(&self, name: &str, options: &str) {
        let there = format!("engine /services/{name} >/dev/null ||");
        self.run(1, &format!("{there} {}{}", create(name, options), running(&[name])));
    }

    /// Creates several services alike and waits for all their tasks at once.
    pub fn services(&self, names: &[&str], options: &str) {
        let creates: String = names.iter().map(|name| create(name, options)).collect();
        self.run(1, &format!("{creates}{}", running(names)));
    }

    /// Waits until every task that a service should have is running.
    pub fn wait_running(&self, services: &[&str]) {
        self.run(1, &running(services));
    }

    /// The containers of a service on a node.
    pub fn containers(&self, node: u8, service: &str) -> Vec<Container> {
        let list = self.run(node, &format!("listed {service}"));
        list.lines()
            .map(|line| {
                let (id, name) = line.split_once(' ').expect("an id and a name");
                Container { id: id.into(), name: name.into() }
            })
            .collect()
    }

    /// The process that a container began with, in the node.
    pub fn pid(&self, node: u8, container: &Container) -> u32 {
        self.run(node, &format!("pid_of {}", container.id)).trim().parse().expect("a process id")
    }

    /// The one container of a service on a node.
    pub fn container(&self, node: u8, service: &str) -> Container {
        let mut all = self.containers(node, service);
        assert_eq!(all.len(), 1, "containers of {service} on node{node}: {all:?}");
        all.remove(0)
    }

    /// File name of the director of net1.
    pub fn director(&self) -> String {
        static NAME: OnceLock<String> = OnceLock::new();
        let name = || {
            let id = self.run(1, "docker network inspect --format '{{.Id}}' net1");
            format!("lb_{}", &id[..9])
        };
        NAME.get_or_init(name).clone()
    }

    /// Sets the lifetime of established entries in a director. It holds for an entry from its
    /// next packet on.
    pub fn set_timeout(&self, node: u8, director: &str, seconds: u32) {
        self.in_director(node, director, &format!("ipvsadm --set {seconds} 0 0"));
    }

    /// What a command says in the namespace of a director.
    pub fn in_director(&self, node: u8, director: &str, command: &str) -> String {
        self.run(node, &format!("nsenter --net=/var/run/docker/netns/{director} {command}"))
    }

    /// What IPVS remembers, by `ipvsadm`, with the seconds left.
    pub fn entries(&self, node: u8, director: &str) -> Vec<(oracle::Entry, f64)> {
        oracle::ipvs_entries(&self.in_director(node, director, "ipvsadm -Lnc"))
    }

    /// The seconds that the entry of the client with this port has left, by `ipvsadm`. The
    /// address that a director sees of a client on the host is another than the client's own.
    pub fn left(&self, node: u8, director: &str, client: &str) -> Option<f64> {
        let port = client.rsplit(':').next().expect("a port");
        let of_client = |address: &str| address.rsplit(':').next() == Some(port);
        let entries = self.entries(node, director);
        entries.iter().find(|(entry, _)| of_client(&entry.client)).map(|(_, left)| *left)
    }

    /// Waits until IPVS has no entry of this client, by its own listing.
    pub fn wait_forgotten(&self, node: u8, director: &str, client: &str) {
        let port = client.rsplit(':').next().expect("a port");
        let listing = format!("nsenter --net=/var/run/docker/netns/{director} ipvsadm -Lnc");
        self.run(node, &format!("while {listing} | grep -q ':{port} '; do sleep 0.5; done"));
    }

    /// `keepline check -o json` on a node.
    pub fn check(&self, node: u8, arguments: &str) -> Check {
        let command = format!("keepline check -o json {arguments}");
        let started = Instant::now();
        let output = self.node(node).sh_within(&format!("{HEAD}{command}"), PATIENCE);
        told(node, started, &command);
        Check::new(output.unwrap_or_else(|error| panic!("{error}")))
    }
}
