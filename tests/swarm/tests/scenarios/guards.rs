//! The guard as the scenarios of issue 6 run it: on both nodes, killed, replaced, asked.

use std::time::Duration;

use serde_json::Value;

use crate::ground::Ground;

/// Guards on both nodes; ended, and everything taken back, when dropped.
pub struct Guards<'a>(&'a Ground);

/// A binary that was put in place of the one at `/payload` goes first.
const START: &str =
    "(PATH=/run/bin:$PATH setsid keepline guard --log text >>/run/guard.log 2>&1 </dev/null & echo $! >/run/guard.pid)
     wait_for curl -sf http://127.0.0.1:9745/healthz >/dev/null";
/// Also when it is killed: its lock goes with it, not before.
const GONE: &str =
    "pid=$(cat /run/guard.pid); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.1; done";
const END: &str = "kill \"$(cat /run/guard.pid)\"; wait_for sh -c '! kill -0 \"$(cat /run/guard.pid)\" 2>/dev/null'";

impl<'a> Guards<'a> {
    pub fn start(ground: &'a Ground) -> Self {
        for node in [1, 2] {
            ground.run(node, &format!("rm -rf /run/guard.log /run/bin; {START}"));
        }
        Self(ground)
    }

    pub fn killed_and_started_again(&self) {
        self.0.run(1, &format!("{GONE}\n{START}"));
    }

    /// Kills node1's after each of these times, given as for `sleep`, and starts the next at once.
    pub fn killed_after_each(&self, moments: &str) {
        self.0.run(
            1,
            &format!(
                "{GONE}; PATH=/run/bin:$PATH
                 for moment in {moments}; do
                   setsid keepline guard --log text >>/run/guard.log 2>&1 </dev/null & pid=$!
                   sleep $moment; kill -9 $pid
                   wait $pid 2>/dev/null; [ $? = 137 ] || {{ echo ended by itself; exit 1; }}
                 done
                 {START}"
            ),
        );
    }

    /// Another file takes the place of node1's binary while it runs, then it is started again, as a
    /// package does it.
    pub fn upgraded(&self) {
        self.0.run(
            1,
            &format!(
                "mkdir -p /run/bin; cp /payload/keepline /run/bin/keepline.new
                 mv /run/bin/keepline.new /run/bin/keepline
                 {END}
                 {START}
                 readlink /proc/\"$(cat /run/guard.pid)\"/exe | grep -qx /run/bin/keepline"
            ),
        );
    }

    /// Starts the guard of a node that was booted, as the unit does: it does not wait for the Engine.
    pub fn start_at_boot(&self, node: u8) {
        self.0.run(node, START);
    }

    pub fn metrics(&self) -> String {
        self.0.run(1, "curl -sf http://127.0.0.1:9745/metrics | grep -v _bucket")
    }

    pub fn log(&self, node: u8) -> String {
        self.0.run(node, "cat /run/guard.log")
    }

    /// Does `before`, which makes a node's `ingress_sbox` anew. The time from when that balances, and
    /// the Engine tells the labels that are policy for it, until those are in force in it.
    pub fn ingress_is_under_policy_again(&self, node: u8, before: &str) -> InForce {
        // A worker's Engine is told of services by managers, once it has found them.
        let tells = if node == 1 {
            "/services >/dev/null"
        } else {
            "/info | grep -q 'NodeState\":\"active'"
        };
        self.in_force_after(
            node,
            &format!(
                "rules() {{ nsenter --net=/var/run/docker/netns/ingress_sbox ipvsadm -Sn 2>/dev/null; }}
                 there() {{ rules | grep -q -- '-A -f'; }}
                 balances() {{ there && engine {tells}; }}
                 {before}
                 while there; do sleep 0.1; done
                 in_force() {{ rules | grep -q -- '-s mh' && ! rules | grep -q -- '-s rr'; }}"
            ),
        )
    }

    /// Makes a network with labels, whose director on node1 is made with its first task. The time from
    /// when that balances until the labels are in force in it. Then all goes again.
    pub fn network_comes_and_goes(&self, hours: u32) -> InForce {
        let seconds = hours * 3600;
        let took = self.in_force_after(
            1,
            &format!(
                "docker network create -d overlay --label keepline.strategy=timeout \
                   --label keepline.tcp-timeout={hours}h net2 >/dev/null
                 file=/var/run/docker/netns/lb_$(docker network inspect --format '{{{{.Id}}}}' net2 | cut -c1-9)
                 docker service create -q --detach --no-resolve-image --stop-grace-period 1s --name late \
                   --network net2 --constraint node.hostname==node1 peer python3 /peer.py serve 7000 >/dev/null
                 balances() {{ nsenter --net=$file ipvsadm -Ln 2>/dev/null | grep -q FWM; }}
                 in_force() {{ nsenter --net=$file ipvsadm -Ln --timeout | grep -q ' {seconds} '; }}"
            ),
        );
        self.0.run(
            1,
            &format!(
                "file=/var/run/docker/netns/lb_$(docker network inspect --format '{{{{.Id}}}}' net2 | cut -c1-9)
                 docker service rm late >/dev/null
                 gone() {{ [ ! -e $file ]; }}
                 wait_for gone; docker network rm net2 >/dev/null
                 forgotten() {{ ! keepline status | grep -q {seconds}; }}; wait_for forgotten"
            ),
        );
        took
    }

    /// `script` defines `balances` and `in_force`.
    fn in_force_after(&self, node: u8, script: &str) -> InForce {
        let said = self.0.run(
            node,
            &format!(
                "{script}
                 now() {{ date +%s%N; }}
                 until balances; do sleep 0.1; done; start=$(now)
                 until probe=$(now); in_force; do sleep 0.1; done; end=$(now)
                 echo $(((end - start) / 1000000)) $(((end - probe) / 1000000))
                 curl -sf --unix-socket /run/keepline/guard.sock http://guard/status"
            ),
        );
        let (times, told) = said.split_once('\n').expect("times, and the guard's word");
        let millis = |text: &str| Duration::from_millis(text.parse().expect("milliseconds"));
        let (after, probe) = times.split_once(' ').expect("two times");
        let told: Value = serde_json::from_str(told).expect("JSON");
        let look = Duration::from_secs_f64(told["took_seconds"].as_f64().expect("a number"));
        InForce { after: millis(after), look, probe: millis(probe) }
    }

    /// What it says of itself, on its control socket.
    pub fn told(&self, node: u8) -> Value {
        let said =
            self.0.run(node, "curl -sf --unix-socket /run/keepline/guard.sock http://guard/status");
        serde_json::from_str(&said).expect("JSON")
    }

    pub fn wait_until_nothing_troubles(&self, node: u8) {
        let well = "well() { keepline status -o json | python3 -c 'import json, sys
sys.exit(json.load(sys.stdin)[\"guard\"][\"troubles\"] != [])'; }; wait_for well";
        self.0.run(node, well);
    }

    /// Ends them as an operator does who removes the package.
    pub fn end(&self) {
        for node in [1, 2] {
            self.0.run(node, &format!("{END}\nkeepline undo --yes"));
        }
    }
}

/// When policy was in force in a director that was made anew.
#[derive(Debug, Clone, Copy)]
pub struct InForce {
    after: Duration,
    /// What the guard's look took just then,
    look: Duration,
    /// and what it took to see that it is in force.
    probe: Duration,
}

impl InForce {
    /// Whether that was soon enough, which is told.
    pub fn soon(&self) -> bool {
        /// What the guard promises.
        const PROMISED: Duration = Duration::from_secs(2);
        // An emulated guest takes many times as long as a machine to look, and to be asked what is in
        // force: of each, one may have begun too early, and another one counts.
        let allowed = PROMISED + 2 * (self.look + self.probe);
        println!("{self:.1?}; {allowed:.1?} allowed");
        self.after <= allowed
    }
}

impl Drop for Guards<'_> {
    fn drop(&mut self) {
        for node in [1, 2] {
            // One that does not end is asked where it is, then killed: the next scenario needs its locks.
            let end = "pid=$(pgrep -f '^keepline guard'); kill $pid
                 for try in 1 2 3 4 5 6 7 8 9 10; do kill -0 $pid 2>/dev/null || break; sleep 0.5; done
                 if kill -0 $pid 2>/dev/null; then
                   echo 'it does not end; where its threads are:'
                   for task in /proc/$pid/task/*; do cat $task/comm $task/syscall $task/stack; done
                   dmesg | tail -n 20
                   kill -9 $pid; sleep 1
                 fi
                 tail -n 40 /run/guard.log; keepline undo --yes; true";
            if std::thread::panicking() {
                println!("node{node}'s guard:\n{}", self.0.run(node, end));
            } else {
                self.0.run(node, end);
            }
        }
    }
}
