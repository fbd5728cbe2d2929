//! Issue 5: `direct` on the real Swarm under load, and idle sessions under both cures on both nodes.
//!
//! These take minutes in guests that are emulated: `make test` leaves them out,
//! `make swarm-test SCENARIO=direct_load` runs them. Two networks with the same addresses are proven
//! in namespaces (crates/keepline-node/tests/direct_load.rs).

use std::{thread::sleep, time::Duration};

use serde_json::Value;

use crate::crowd::{Crowd, Fate};
use crate::ground::Ground;
use crate::scenario;
use crate::session::From::Container;
use crate::strategies::Scene;

/// Within which connections to a task that has left the director's table have to end.
const SOON: f64 = 2.0;
/// What an emulated guest may need on top: it has a twentieth of a processor.
const EMULATED: f64 = 6.0;

/// `keepline apply direct` on node1, following.
struct Follower<'a>(&'a Ground);

impl<'a> Follower<'a> {
    fn start(ground: &'a Ground) -> Self {
        let follower = Self(ground);
        follower.again();
        follower
    }

    fn again(&self) {
        self.0.run(
            1,
            "rm -f /run/direct.log
             (setsid keepline apply direct --service busy --yes >/run/direct.log 2>&1 </dev/null &)
             wait_for grep -q 'following the backends' /run/direct.log",
        );
    }

    fn killed_and_started_again(&self) {
        self.0.run(1, "pkill -9 -f '^keepline apply direct'; true");
        self.again();
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        let end = "pkill -INT -f '^keepline apply direct'; cat /run/direct.log; sleep 1
                   keepline status; keepline undo direct --yes; ls /sys/fs/bpf";
        println!("{}", self.0.run(1, end));
    }
}

/// A hundred clients in `app`, and what the director balances to meanwhile.
struct Load<'a>(&'a Ground);

impl<'a> Load<'a> {
    fn start(ground: &'a Ground) -> Self {
        let (director, app) = (ground.director(), ground.container(1, "app"));
        let pid = ground.pid(1, &app);
        ground.run(
            1,
            &format!(
                r#"mkdir -p /run/visitors; cd /run/visitors; rm -f *; mkfifo orders
                   nsenter --net=/var/run/docker/netns/{director} \
                     python3 /payload/watch.py {pid} /run/visitors/watched >/run/visitors/watch.log 2>&1 &
                   {{ docker exec -i {} python3 -c "$(cat /payload/visitors.py)" busy 7000 100 \
                     <>orders >said 2>&1; echo ended >>said; }} &
                   wait_for grep -q . said; cat said"#,
                app.id
            ),
        );
        Self(ground)
    }

    /// What the clients tell, and what was seen of the table.
    fn end(self) -> (Value, Value) {
        let said = self.0.run(
            1,
            "cd /run/visitors; echo end >orders; wait_for grep -q ended said; sed -n 2p said
             touch watched.stop; wait_for test -s watched; cat watched; echo; cat watch.log",
        );
        let mut lines = said.lines();
        let mut json = || serde_json::from_str(lines.next().unwrap_or_default());
        let both = json().and_then(|told: Value| Ok((told, json()?)));
        both.unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

/// The clock of node1.
fn clock(ground: &Ground) -> f64 {
    ground.run(1, "date +%s.%N").trim().parse().expect("a number")
}

fn scale(ground: &Ground, replicas: u32) {
    ground.run(1, &format!("docker service scale --detach busy={replicas} >/dev/null"));
    ground.wait_running(&["busy"]);
    // Until nobody is drained any more.
    let director = ground.director();
    ground.run(
        1,
        &format!(
            "balanced() {{ nsenter --net=/var/run/docker/netns/{director} ipvsadm -Sn |
                             grep -c -- '-w 0' | grep -qx 0; }}
             sleep 3; wait_for balanced"
        ),
    );
}

scenario! {
    fn a_hundred_clients_while_tasks_are_scaled_updated_and_killed(ground) {
        // Without a health check the Swarm sends clients to a task that does not listen yet, by IPVS as
        // well: with one, no connect may fail.
        ground.run(
            1,
            r#"docker service create -q --detach --no-resolve-image --stop-grace-period 1s --name busy \
                 --replicas 2 --network net1 --update-delay 3s --mount type=bind,src=/payload,dst=/payload \
                 --health-cmd "grep -qE ':1B58 0+:0000 0A' /proc/net/tcp /proc/net/tcp6" \
                 --health-interval 6s --health-timeout 30s --health-retries 10 \
                 peer /payload/keepline lab peer serve --ports 7000-7000 >/dev/null"#,
        );
        scale(ground, 2);
        let follower = Follower::start(ground);
        let load = Load::start(ground);
        scale(ground, 6);
        follower.killed_and_started_again();
        scale(ground, 1);
        scale(ground, 3);
        // One task after another is replaced, and whoever follows dies in the midst.
        ground.run(1, "docker service update --detach --force busy >/dev/null; sleep 5");
        follower.killed_and_started_again();
        let updated = "updated() { docker service inspect --format '{{.UpdateStatus.State}}' busy | grep -q completed; }
                       wait_for updated";
        ground.run(1, updated);
        ground.wait_running(&["busy"]);
        sleep(Duration::from_secs(10));
        let killed = clock(ground);
        // The task is gone at once, and nobody has said so.
        ground.run(1, "docker kill $(containers busy | head -1) >/dev/null");
        ground.run(1, "sleep 10");
        ground.wait_running(&["busy"]);
        sleep(Duration::from_secs(15));
        let (told, watched) = load.end();
        println!("{told}\n{watched:#}");
        drop(follower);
        ground.run(1, "docker service rm busy >/dev/null");

        let left = watched["left"].as_array().expect("a list");
        assert!(left.len() >= 9, "five scaled down, three updated, one killed: {watched:#}");
        let number = |it: &Value, key: &str| it[key].as_f64().unwrap_or_default();
        let mut latest = 0.0_f64;
        for it in left {
            let late = number(it, "last") - number(it, "left");
            println!("{}: connected until {late:.1} s after it left the table", it["address"]);
            // Its tasks tell their clients themselves, if they end at all.
            if it["whole"] == true {
                println!("  with its whole service");
            } else {
                latest = latest.max(late);
            }
        }
        let slowest = watched["slowest"].as_f64().expect("a number");
        println!("the latest {latest:.1} s (aim {SOON} s); a look took up to {slowest:.1} s");
        assert!(latest <= SOON + EMULATED, "{watched:#}");
        // Until the director itself has noticed, it would have sent them there, too.
        let noticed = left.iter().map(|it| number(it, "left")).find(|at| *at >= killed);
        let until = noticed.expect("it left the table") + SOON + EMULATED;
        let failed = told["failed"].as_array().expect("a list");
        let (excused, lost): (Vec<&Value>, Vec<&Value>) = failed
            .iter()
            .partition(|it| it[0].as_f64().is_some_and(|at| (killed - 1.0..until).contains(&at)));
        println!("{} connects failed between the task's death and the director's notice", excused.len());
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert_eq!(told["silent"], 0, "nobody waited for an answer in vain: {told}");
    }
}

scenario! {
    /// Sessions to one service go directly, sessions to another get keepalive, on both nodes.
    fn idle_sessions_survive_four_timeouts_on_both_nodes(ground) {
        const TIMEOUT: u64 = 12;
        let _scene = Scene::new(ground);
        let director = ground.director();
        for node in [1, 2] {
            ground.run(
                node,
                "keepline apply direct --service trio --once --yes
                 keepline apply keepalive --service db --idle 4s --interval 2s --yes",
            );
            ground.in_director(node, &director, &format!("ipvsadm --set {TIMEOUT} 5 0"));
        }
        let mut crowds: Vec<Crowd<'_>> = [(1, "app"), (2, "far")]
            .into_iter()
            .flat_map(|(node, from)| ["trio 7000", "db 7000"].map(|to| (node, from, to)))
            .map(|(node, from, to)| Crowd::open(ground, node, Container(from), to, 20))
            .collect();
        // Without a cure, for comparison: `far` from `app` is neither direct nor kept alive.
        let mut none = Crowd::open(ground, 1, Container("app"), "far 7000", 5);
        sleep(Duration::from_secs(4 * TIMEOUT));
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), Fate { survived: 20, lost: 0, strayed: 0 });
        }
        assert_eq!(none.write(), Fate { survived: 0, lost: 5, strayed: 0 });
        drop((crowds, none));
        for node in [1, 2] {
            ground.run(node, "keepline undo --yes; test ! -e /sys/fs/bpf/keepline");
        }
    }
}
