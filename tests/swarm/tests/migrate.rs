//! Issue 7, "Proof, on the real two-node Swarm": a service goes from vip to dnsrr and back while
//! a client on each node resolves its name and connects, ten times a second.
//!
//! Keepline dies on the way, at a step that the test waits for in what it says.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use keepline_swarm_tests::{Guest, Guests, Output, skip};
use serde_json::Value;

/// Guests emulated in software on a busy machine take their time.
const PATIENCE: Duration = Duration::from_secs(590);

struct Swarm {
    guests: Guests,
}

impl Swarm {
    fn boot() -> Self {
        let binary = std::env::var_os("KEEPLINE_BIN")
            .map(PathBuf::from)
            .expect("KEEPLINE_BIN names no release binary: `make test` builds one and sets it");
        let payload = tempfile::tempdir().unwrap();
        std::fs::copy(&binary, payload.path().join("keepline")).unwrap();
        let load = Path::new(env!("CARGO_MANIFEST_DIR")).join("payload/load.py");
        std::fs::copy(load, payload.path().join("load.py")).unwrap();
        let guests = Guests::boot(2, Some(payload.path())).unwrap();
        guests.swarm().unwrap();
        Self { guests }
    }

    fn manager(&self) -> &Guest {
        self.guests.node(1)
    }

    fn ok(&self, script: &str) -> String {
        self.manager().ok_within(script, PATIENCE).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs Keepline on the manager.
    fn migrate(&self, arguments: &str) -> Output {
        let command = format!("/payload/keepline migrate {arguments}");
        let output = self.manager().sh_within(&command, PATIENCE).unwrap();
        eprintln!("$ keepline migrate {arguments}: {}\n{}", output.status, output.stderr);
        output
    }

    /// Starts Keepline and kills it when it says `step`.
    fn die_at(&self, arguments: &str, step: &str) {
        let said = self.ok(&format!(
            "rm -f /run/said
             /payload/keepline migrate {arguments} --yes 2>/run/said &
             until grep -q '^{step}' /run/said; do
               kill -0 $! || {{ cat /run/said >&2; exit 1; }}; sleep 0.1
             done
             kill -9 $!; wait $!; cat /run/said"
        ));
        eprintln!("$ keepline migrate {arguments}: killed at {step}\n{said}");
    }

    /// The counts of the client on each node.
    fn counts(&self) -> Vec<Value> {
        const LAST: &str = "docker logs --tail 1 \
            $(docker ps -q --filter label=com.docker.swarm.service.name=app) 2>/dev/null";
        [1, 2]
            .into_iter()
            .map(|node| {
                let line = self.guests.node(node).ok_within(LAST, PATIENCE).unwrap();
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// No look-up and no connect has failed since `since`, and the clients are at it.
    fn assert_served(&self, since: &[Value], after: &str) {
        for (index, (counts, since)) in self.counts().iter().zip(since).enumerate() {
            eprintln!("after {after}, node {}: {counts}", index + 1);
            let more = |what: &str| counts[what].as_u64().unwrap() - since[what].as_u64().unwrap();
            assert_eq!(more("lookups_failed"), 0, "{counts:#}");
            assert_eq!(more("connects_failed"), 0, "{counts:#}");
            assert!(more("tried") > 20, "{counts:#}");
        }
    }

    fn spec(&self) -> Value {
        let text = self.ok("docker service inspect db");
        let mut all: Value = serde_json::from_str(&text).unwrap();
        all[0]["Spec"].take()
    }

    /// One service `db`, as it was but for its mode, and nothing else.
    fn assert_only(&self, before: &Value, mode: &str) {
        let mut expected = before.clone();
        expected["EndpointSpec"]["Mode"] = mode.into();
        assert_eq!(self.spec(), expected);
        let services = self.ok("docker service ls --format '{{.Name}} {{.Replicas}}' | sort");
        assert_eq!(services, "app 2/2\ndb 2/2\n");
        for node in [1, 2] {
            let left = self
                .guests
                .node(node)
                .ok("docker ps --format '{{.Names}}' --filter name=keepline")
                .unwrap();
            assert_eq!(left, "");
        }
    }
}

const START: &str = "\
docker network create -d overlay net1
docker network create -d overlay net2
docker service create -q --detach --no-resolve-image --name db --replicas 2 \
  --network name=net1,alias=data --network net2 --stop-grace-period 3s --label team=storage \
  --container-label x=y --env A=b --update-order start-first peer python3 /peer.py serve 7000
until docker service ls --format '{{.Replicas}}' | grep 2/2; do sleep 2; done
docker service create -q --detach --no-resolve-image --name app --mode global --network net1 \
  --mount type=bind,src=/payload,dst=/payload,readonly peer python3 /payload/load.py db 7000
until [ $(docker service ls --format '{{.Replicas}}' | grep -c 2/2) = 2 ]; do sleep 1; done
sleep 8";

/// An idle session that the director would forget after five seconds of silence.
const SILENCE: &str = r#"
for lb in /var/run/docker/netns/lb_*; do nsenter --net=$lb ipvsadm --set 5 5 5; done
app=$(docker ps -q --filter label=com.docker.swarm.service.name=app)
docker exec $app python3 /peer.py idle db 7000 12"#;

#[test]
fn a_live_service_goes_there_and_back() {
    if skip("a_live_service_goes_there_and_back") {
        return;
    }
    let swarm = Swarm::boot();
    swarm.ok(START);
    let before = swarm.spec();
    // While the first tasks and networks came up, a client may have failed.
    let start = swarm.counts();

    let dry = swarm.migrate("db --to dnsrr --dry-run");
    assert_eq!(dry.status, 0, "{}", dry.stderr);
    eprintln!("{}", dry.stdout);
    swarm.assert_only(&before, "vip");

    let there = swarm.migrate("db --to dnsrr --yes");
    assert_eq!(there.status, 0, "{}", there.stderr);
    swarm.assert_only(&before, "dnsrr");
    swarm.assert_served(&start, "vip to dnsrr");
    let survived = swarm.ok(SILENCE);
    assert!(survived.contains("survived"), "{survived}");

    swarm.die_at("db --to vip", r"\[6/");
    let on = swarm.migrate("db --resume --yes");
    assert_eq!(on.status, 0, "{}", on.stderr);
    swarm.assert_only(&before, "vip");
    swarm.assert_served(&start, "dnsrr to vip, killed and resumed");

    swarm.die_at("db --to dnsrr", r"\[8/");
    let back = swarm.migrate("db --rollback --yes");
    assert_eq!(back.status, 0, "{}", back.stderr);
    swarm.assert_only(&before, "vip");
    swarm.assert_served(&start, "vip to dnsrr, killed and rolled back");

    refusals(&swarm);
    swarm.assert_only(&before, "vip");
}

/// What must not begin.
fn refusals(swarm: &Swarm) {
    for (arguments, status, part) in [
        ("db --to vip --yes", 1, "in mode vip already"),
        ("web --to dnsrr --yes", 2, "there is no service web"),
        ("app --to dnsrr --yes", 1, "global"),
    ] {
        let refused = swarm.migrate(arguments);
        assert_eq!(refused.status, status, "{}", refused.stderr);
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    swarm.ok("half=$(($(docker info --format '{{.MemTotal}}') * 6 / 10))
              for more in '--publish 8080:7000' '--label com.docker.stack.namespace=shop' \
                \"--reserve-memory $half --constraint node.hostname==node1\"; do
                name=no$((++n))
                docker service create -q --detach --no-resolve-image --name $name --network net1 \
                  $more peer python3 /peer.py serve 7000
                until docker service ls --filter name=$name | grep 1/1; do sleep 1; done
              done");
    for (name, part) in [
        ("no1", "port 8080 on the ingress network"),
        ("no2", "endpoint_mode: dnsrr"),
        ("no3", "no room for the copy"),
    ] {
        let refused = swarm.migrate(&format!("{name} --to dnsrr --yes"));
        assert_eq!(refused.status, 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    swarm.ok("docker service rm no1 no2 no3");
    // On a worker nothing can be changed at all.
    let worker = swarm.guests.node(2).sh("/payload/keepline migrate db --to dnsrr --yes").unwrap();
    assert_eq!(worker.status, 2, "{}", worker.stderr);
    assert!(worker.stderr.contains("run it on a manager: 192.168.77.1:2377"), "{}", worker.stderr);
}
