//! Issue 7, "Proof, on the real two-node Swarm": a service goes from vip to dnsrr and back while
//! clients on each node resolve its name, connect, and keep connections.

use std::time::{Duration, Instant};

use keepline_swarm_tests::Output;
use serde_json::Value;

use crate::ground::{Ground, PATIENCE};
use crate::scenario;

/// Where the clients run: in the containers of these services.
const CLIENTS: [(u8, &str); 2] = [(1, "app"), (2, "far")];

/// Runs `keepline migrate` on a node.
fn migrate(ground: &Ground, node: u8, arguments: &str) -> Output {
    let command = format!("/payload/keepline migrate {arguments}");
    let started = Instant::now();
    let output = ground.node(node).sh_within(&command, PATIENCE).expect("an answer");
    println!(
        "$ keepline migrate {arguments}: {} after {:.0} s\n{}",
        output.status,
        started.elapsed().as_secs_f32(),
        output.stderr
    );
    output
}

/// Starts it on the manager and kills it when it begins the step `number`.
fn die_at(ground: &Ground, arguments: &str, number: u32) {
    ground.run(
        1,
        &format!(
            r"keepline migrate {arguments} --yes 2>/run/said &
              until grep -q '^\[{number}/' /run/said; do
                kill -0 $! || {{ cat /run/said >&2; exit 1; }}; sleep 0.1
              done
              kill -9 $!; wait $!; cat /run/said >&2"
        ),
    );
}

fn spec(ground: &Ground, service: &str) -> Value {
    let text = ground.run(1, &format!("engine /services/{service}"));
    let mut all: Value = serde_json::from_str(&text).expect("a service");
    all["Spec"].take()
}

/// The service is as it was but for its mode, all its tasks run, and of copies nothing is left.
fn assert_only(ground: &Ground, service: &str, before: &Value, mode: &str) {
    let mut expected = before.clone();
    expected["EndpointSpec"]["Mode"] = mode.into();
    assert_eq!(spec(ground, service), expected);
    ground.wait_running(&[service]);
    let copies = format!(r#"'{{"name":["{service}-keepline"]}}'"#);
    assert_eq!(ground.run(1, &format!("engine /services {copies}")).trim(), "[]");
    for node in [1, 2] {
        let left = ground.run(node, &format!("engine /containers/json {copies}"));
        assert_eq!(left.trim(), "[]", "node{node}");
    }
}

/// Starts the clients; gives what they counted until they were served for the first time.
fn clients(ground: &Ground) -> Vec<Value> {
    for (node, from) in CLIENTS {
        ground.run(
            node,
            &format!(
                r#"inside {from} python3 -c "$(cat /payload/load.py)" store 7000 \
                     >/run/load 2>&1 &
                   served() {{ tail -n 1 /run/load | grep -q '"asked": [1-9]'; }}; wait_for served"#
            ),
        );
    }
    counts(ground)
}

fn counts(ground: &Ground) -> Vec<Value> {
    let of = |(node, _)| {
        let line = ground.run(node, "tail -n 1 /run/load");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    CLIENTS.into_iter().map(of).collect()
}

/// No look-up and no connect has failed since `since`, the clients are at it, and a kept
/// connection was lost no oftener than its task was replaced: with the service by its copy, with
/// the copy by the new service.
fn assert_served(ground: &Ground, since: &[Value], migrations: u64) {
    for ((counts, since), (node, _)) in counts(ground).iter().zip(since).zip(CLIENTS) {
        println!("node{node}: {counts}");
        let more = |what: &str| {
            counts[what].as_u64().expect("a count") - since[what].as_u64().expect("a count")
        };
        assert_eq!(more("lookups_failed"), 0, "{counts:#}");
        assert_eq!(more("connects_failed"), 0, "{counts:#}");
        assert!(more("tried") > 100 * migrations && more("asked") > 10 * migrations, "{counts:#}");
        assert!(more("kept_lost") <= 2 * migrations, "{counts:#}");
    }
}

scenario! {
    fn a_live_service_goes_there_and_back(ground) {
        ground.run(1, "engine /networks/side >/dev/null || docker network create -d overlay side");
        ground.service(
            "store",
            "--replicas 2 --network name=net1,alias=data --network side --label team=storage \
             --container-label x=y --env A=b --update-order start-first",
        );
        let before = spec(ground, "store");
        let start = clients(ground);

        let dry = migrate(ground, 1, "store --to dnsrr --dry-run");
        assert_eq!(dry.status, 0, "{}", dry.stderr);
        println!("{}", dry.stdout);
        assert_eq!(spec(ground, "store"), before);

        let there = migrate(ground, 1, "store --to dnsrr --yes");
        assert_eq!(there.status, 0, "{}", there.stderr);
        assert_only(ground, "store", &before, "dnsrr");
        assert_served(ground, &start, 1);
        // No director is on the way: one that forgets after five seconds makes no difference.
        let director = ground.director();
        ground.set_timeout(1, &director, 5);
        let survived = ground.run(1, "inside app python3 /peer.py idle store 7000 12");
        assert!(survived.contains("survived"), "{survived}");

        // The name depends on the copy alone when Keepline dies.
        die_at(ground, "store --to vip", 6);
        let on = migrate(ground, 1, "store --resume --yes");
        assert_eq!(on.status, 0, "{}", on.stderr);
        assert_only(ground, "store", &before, "vip");
        assert_served(ground, &start, 2);
        ground.run(1, "docker service rm store >/dev/null");
    }
}

/// `killed SERVICE STEP ARGUMENTS…` in a guest: begins it, and kills it as soon as it says that the step
/// begins. A step is told by its words: a run that is resumed counts from where it begins.
const KILLED: &str = r#"
mkdir -p /run/crash; rm -f /run/crash/*
killed() {
  local service=$1 step=$2 words; shift 2
  case $step in
  2) words="wait until 1 task of $service-keepline run" ;;
  3) words="look up $service in each network: it must lead to $service-keepline$" ;;
  4) words="remove $service$" ;;
  5) words="wait until the tasks of $service have stopped" ;;
  6) words="create $service in mode" ;;
  7) words="wait until 1 task of $service run" ;;
  8) words="look up $service in each network: it must lead to $service$" ;;
  9) words="remove $service-keepline$" ;;
  esac
  python3 /payload/kill_at.py "$words" keepline migrate $service "$@" --yes || return
  echo "$SECONDS s: $service killed at step $step"
}
# What follows when SERVICE is taken up with --resume or --rollback: the ninth step may have been done
# by the time it was killed, and then there is no copy to take it up from.
taken_up() {
  local expected=0
  sleep 1 # A request that was on its way is carried out.
  engine /services/$1-keepline >/dev/null || expected=1
  keepline migrate $1 $2 --yes >/run/crash/$1.end 2>&1
  [ $? = $expected ] && taken=$expected || { cat /run/crash/$1.end; return 1; }
}
back() {
  local service=$1 step taken; shift
  for step; do
    killed $service $step --to dnsrr && taken_up $service --rollback || return
  done
  [ $taken = 0 ] && echo "$service vip" || echo "$service dnsrr"
}
onward() {
  killed onward 2 --to dnsrr || return
  for step in $(seq 3 9); do killed onward $step --resume || return; done
  taken_up onward --resume && echo "onward dnsrr"
}
"#;

/// Eight migrations of one service after the other, in an emulated guest.
const EIGHT_MIGRATIONS: Duration = Duration::from_secs(1500);

scenario! {
    /// Killed at the beginning of every step that has a copy: one service at all of them, each time
    /// resumed; three others at all of them in turn, each time rolled back. Four at once, as they mostly
    /// wait; more are too many for an emulated Engine.
    fn a_crash_at_any_step_is_resumed_or_rolled_back(ground) {
        let all = ["back1", "back2", "back3", "onward"];
        ground.services(&all, "--network net1");
        let before: Vec<Value> = all.iter().map(|name| spec(ground, name)).collect();
        let said = ground.run_within(
            1,
            &format!(
                "{KILLED}
                 back back1 2 5 8 & lanes=$!; back back2 4 7 & lanes+=\" $!\"
                 back back3 3 6 9 & lanes+=\" $!\"; onward & lanes+=\" $!\"
                 (sleep {}; tail -n 5 /run/crash/*) & teller=$!
                 wait $lanes; kill $teller",
                EIGHT_MIGRATIONS.as_secs() - 20
            ),
            EIGHT_MIGRATIONS,
        );
        println!("{said}");
        for (name, before) in all.iter().zip(&before) {
            let mut modes = said.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let mode = modes.next().unwrap_or_else(|| panic!("{name} did not come through: {said}"));
            assert!(mode == "vip" || ["back3", "onward"].contains(name), "{said}");
            assert_only(ground, name, before, mode);
        }
        ground.run(1, &format!("docker service rm {} >/dev/null", all.join(" ")));
    }
}

/// Everything that the Swarm knows of its services, in some order.
fn services(ground: &Ground) -> Vec<Value> {
    let mut all: Vec<Value> =
        serde_json::from_str(&ground.run(1, "engine /services")).expect("services");
    all.sort_by_key(|service| service["ID"].to_string());
    all
}

scenario! {
    fn what_must_not_be_migrated_is_left_as_it_is(ground) {
        ground.service("web", "--constraint node.hostname==node1 --publish 8081:7000");
        // Global, of a stack, and without room for a second task.
        ground.service(
            "tight",
            "--mode global --network net1 --label com.docker.stack.namespace=shop \
             --constraint node.hostname==node1 \
             --reserve-memory $(($(docker info --format '{{.MemTotal}}') * 6 / 10))",
        );
        let before = services(ground);
        for (node, arguments, status, parts) in [
            (1, "db --to vip", 1, &["in mode vip already"][..]),
            (1, "nobody --to dnsrr", 2, &["there is no service nobody"]),
            (1, "web --to dnsrr", 1, &["port 8081 on the ingress network"]),
            (1, "tight --to dnsrr", 1, &["is global", "endpoint_mode: dnsrr"]),
            (1, "tight --to dnsrr --allow global,stack", 1, &["no room for the copy"]),
            // On a worker nothing can be changed at all.
            (2, "db --to dnsrr", 2, &["run it on a manager: 192.168.77.1:2377"]),
        ] {
            let refused = migrate(ground, node, &format!("{arguments} --yes"));
            assert_eq!(refused.status, status, "{}", refused.stderr);
            for part in parts {
                assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
            }
        }
        assert_eq!(services(ground), before);
        ground.run(1, "docker service rm tight >/dev/null");
    }
}
