//! Issue 4: strategies and remedies on the real Swarm. Twenty sessions to a VIP and twenty to a
//! published port, over three backends on two nodes.

use std::time::Duration;

use keepline_swarm_tests::oracle;

use crate::crowd::{Crowd, Fate};
use crate::ground::Ground;
use crate::scenario;
use crate::session::{
    From::{Container, Host},
    Session,
};

pub const INGRESS: &str = "ingress_sbox";
/// Seconds after which directors forget.
pub const TIMEOUT: u32 = 12;
/// Of silence: four timeouts.
const SILENCE: Duration = Duration::from_secs(4 * TIMEOUT as u64);
pub const COUNT: u32 = 20;

/// All survived, all at their own backend.
pub const ALL: Fate = Fate { survived: COUNT, lost: 0, strayed: 0 };

/// The two directors of each node, and the service that both lead to.
pub struct Scene<'a> {
    ground: &'a Ground,
    directors: [String; 2],
}

impl<'a> Scene<'a> {
    pub fn new(ground: &'a Ground) -> Self {
        // A scenario before this one may have scaled it, and its timeouts are cleared already.
        ground.run(1, "keepline undo --yes; rm -rf /run/keepline");
        ground.service("trio", "--replicas 3 --network net1 --publish 8080:7000");
        let scene = Self { ground, directors: [ground.director(), INGRESS.to_owned()] };
        if scene.replicas() < 3 {
            scene.scale(3);
        }
        scene
    }

    fn replicas(&self) -> u32 {
        let said = self.ground.run(1, "engine /services/trio");
        let service: serde_json::Value = serde_json::from_str(&said).expect("a service");
        let replicas = service["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64();
        replicas.and_then(|it| it.try_into().ok()).expect("a number")
    }

    fn scale(&self, replicas: u32) {
        self.ground.run(1, &format!("docker service scale --detach trio={replicas} >/dev/null"));
        self.ground.wait_running(&["trio"]);
    }

    /// Directors of node1 forget soon from each entry's next packet on.
    pub fn forget_soon(&self) {
        self.forget_within(1, TIMEOUT);
    }

    pub fn forget_within(&self, node: u8, seconds: u32) {
        for director in &self.directors {
            self.ground.in_director(node, director, &format!("ipvsadm --set {seconds} 5 0"));
        }
    }

    pub fn crowds(&self) -> [Crowd<'a>; 2] {
        let vip = Crowd::open(self.ground, 1, Container("app"), "trio 7000", COUNT);
        let published = Crowd::open(self.ground, 1, Host, "192.168.77.1 8080", COUNT);
        // Hashed ones need not reach every backend there is.
        let reached = [vip.backends, published.backends];
        assert!(reached.iter().all(|it| *it >= 3), "backends on both nodes: {reached:?}");
        [vip, published]
    }

    fn silence(&self) {
        println!("silent for {} s", SILENCE.as_secs());
        std::thread::sleep(SILENCE);
    }

    pub fn silence_of_a_timeout(&self) {
        std::thread::sleep(Duration::from_secs(u64::from(TIMEOUT)));
    }

    /// Scales the service up while sessions are silent.
    fn silence_with_one_backend_more(&self) {
        let started = std::time::Instant::now();
        self.scale(self.replicas() + 1);
        std::thread::sleep(SILENCE.saturating_sub(started.elapsed()));
    }

    /// Everything that a strategy may change in the directors of node1, byte for byte.
    pub fn settings(&self) -> String {
        self.settings_on(1)
    }

    pub fn settings_on(&self, node: u8) -> String {
        let look = "sh -c 'ipvsadm -Sn | sort; ipvsadm -Ln --timeout; ipvsadm -Ln --daemon; \
                    sysctl -a 2>/dev/null | grep -E \"net.ipv4.vs|nf_conntrack_tcp_timeout|tcp_keepalive\"'";
        self.directors.iter().map(|it| self.ground.in_director(node, it, look)).collect()
    }

    /// Lines of the settings that were not there before, and those that are no longer.
    fn changed_since(&self, before: &str) -> String {
        let now = self.settings();
        let only = |sign: char, these: &str, those: &str| -> String {
            let known: Vec<&str> = those.lines().collect();
            let new = these.lines().filter(|line| !known.contains(line));
            new.map(|line| format!("{sign} {line}\n")).collect()
        };
        let lines = only('-', before, &now) + &only('+', &now, before);
        if lines.is_empty() && now != before { now } else { lines }
    }

    fn wait_all_forgotten(&self) {
        for director in &self.directors {
            self.ground.run(
                1,
                &format!(
                    "while nsenter --net=/var/run/docker/netns/{director} ipvsadm -Lnc | \
                       grep -q ESTABLISHED; do sleep 0.5; done"
                ),
            );
        }
    }
}

scenario! {
    /// What the other scenarios are measured by.
    fn without_a_strategy_no_idle_session_survives(ground) {
        let scene = Scene::new(ground);
        let mut crowds = scene.crowds();
        scene.forget_soon();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        scene.wait_all_forgotten();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), Fate { survived: 0, lost: COUNT, strayed: 0 });
        }
    }
}

scenario! {
    fn timeout_reaches_idle_sessions_and_they_survive(ground) {
        let scene = Scene::new(ground);
        let mut crowds = scene.crowds();
        scene.forget_soon();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        let said = ground.run(1, "keepline apply timeout --tcp 2h --yes");
        assert!(said.contains("tcp 12 s → 7200 s"), "{said}");
        scene.silence_with_one_backend_more();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
    }
}

scenario! {
    fn hold_keeps_sessions_for_as_long_as_their_sockets(ground) {
        let scene = Scene::new(ground);
        let mut crowds = scene.crowds();
        scene.forget_soon();
        ground.run(
            1,
            "(setsid keepline apply hold --yes >/run/hold.log 2>&1 </dev/null & echo $! >/run/hold.pid)
             wait_for grep -q 'holding, Ctrl-C' /run/hold.log",
        );
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        scene.silence_with_one_backend_more();
        let check = ground.check(1, "--service trio");
        assert_eq!(check.json["summary"]["orphaned"], 0, "{:#}", check.json["summary"]);
        assert_eq!(check.sessions()[0]["held"], true, "{:#}", check.sessions()[0]);
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL, "{}", ground.run(1, "cat /run/hold.log"));
        }
        // Nothing is left of those that close, nor of one that dies without a word.
        let [vip, published] = crowds;
        drop(published);
        let client = ground.container(1, "app");
        ground.run(
            1,
            &format!(
                "nsenter --net --target {pid} iptables -I OUTPUT -p tcp --dport 7000 -j DROP
                 pkill -9 -f crowd[.]py; true",
                pid = ground.pid(1, &client)
            ),
        );
        drop(vip);
        for director in &scene.directors {
            ground.run(
                1,
                &format!(
                    "wait_for sh -c '! nsenter --net=/var/run/docker/netns/{director} ipvsadm -Lnc |
                       grep -qE \"ESTABLISHED|FIN_WAIT\"'"
                ),
            );
        }
        ground.run(
            1,
            &format!(
                "nsenter --net --target {pid} iptables -D OUTPUT -p tcp --dport 7000 -j DROP
                 kill -INT $(pgrep -xf 'keepline apply hold --yes'); wait_for grep -q 'no longer holding' /run/hold.log",
                pid = ground.pid(1, &client)
            ),
        );
        let daemons = ground.in_director(1, &scene.directors[0], "ipvsadm -Ln --daemon");
        assert_eq!(daemons.trim(), "", "the receiver runs only when it is needed");
    }
}

scenario! {
    fn rehash_finds_the_backends_again(ground) {
        let scene = Scene::new(ground);
        let mut older = scene.crowds();
        let said = ground.run(1, "keepline apply rehash --yes");
        assert!(said.contains("rr → mh (mh-fallback, mh-port)"), "{said}");
        scene.forget_soon();
        let mut crowds = scene.crowds();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        scene.silence();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        for crowd in &mut older {
            assert_eq!(crowd.write(), ALL, "placed by rr, carried over");
        }
        // What scaling costs: a part of the choices change.
        let before = scene.replicas();
        scene.scale(before + 1);
        scene.wait_all_forgotten();
        for (crowd, way) in crowds.iter_mut().zip(["VIP", "published port"]) {
            let fate = crowd.write();
            println!("rehash, {way}: one backend more than {before} while silent: {fate:?}");
            assert!(fate.survived >= COUNT / 2 && fate.strayed == 0, "{fate:?}");
        }
    }
}

scenario! {
    fn keepalive_on_open_sockets_keeps_sessions(ground) {
        let scene = Scene::new(ground);
        let mut crowds = scene.crowds();
        let said = ground.run(1, "keepline apply keepalive --idle 4s --interval 2s --service trio --yes");
        assert!(said.contains("20 set"), "{said}");
        scene.forget_soon();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        scene.silence_with_one_backend_more();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
    }
}

scenario! {
    fn healed_sessions_write_again_at_their_own_backends(ground) {
        let scene = Scene::new(ground);
        let mut crowds = scene.crowds();
        let mut replaced = Session::open(ground, 1, Container("app"), "db 7000");
        let mut far = Session::open(ground, 1, Container("app"), "far 7000");
        scene.forget_soon();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        assert_eq!((replaced.write(), far.write()), ("survived".into(), "survived".into()));
        // Two of three backends are on one node or the other: an earlier look knows them.
        ground.run(1, "rm -rf /run/keepline; keepline capture /run/before.json");
        scene.wait_all_forgotten();
        let old = replaced.backend.clone();
        let director = &scene.directors[0];
        ground.run(
            1,
            &format!(
                "docker service update -q --detach --force db >/dev/null
                 other() {{ containers db | grep -v ^{old} | grep -q .; }}; wait_for other
                 gone() {{ ! containers db | grep -q ^{old}; }}; wait_for gone
                 # Until the director balances to it, which comes a moment after it runs.
                 vip=$(docker service inspect --format '{{{{(index .Endpoint.VirtualIPs 0).Addr}}}}' db)
                 balanced() {{ nsenter --net=/var/run/docker/netns/{director} ip -4 addr | grep -qF \"${{vip%/*}}/\"; }}
                 wait_for balanced; sleep 3"
            ),
        );
        ground.wait_running(&["db"]);
        let dry = ground.run(1, "keepline heal --from /run/before.json --dry-run || true");
        println!("{dry}");
        let output = ground
            .node(1)
            .sh("PATH=/payload:$PATH KEEPLINE_DOCKER_TIMEOUT=30s keepline heal --from /run/before.json --yes")
            .expect("an answer");
        assert_eq!(output.status, 1, "one is refused: {}{}", output.stdout, output.stderr);
        assert!(output.stdout.contains(&format!("refused: not {} → ", replaced.client)), "{}", output.stdout);
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL);
        }
        assert_eq!(far.write(), "survived");
        assert!(replaced.write().starts_with("lost"));
    }
}

scenario! {
    /// Also when Keepline is killed in the midst.
    fn undo_leaves_directors_byte_for_byte_as_before(ground) {
        let scene = Scene::new(ground);
        let _crowds = scene.crowds();
        let before = scene.settings();
        assert!(before.contains("-s rr"), "{before}");
        ground.run(
            1,
            "keepline apply timeout --tcp 2h --tcpfin 3m --udp 4m --yes
             keepline apply rehash --yes
             keepline apply keepalive --yes
             keepline apply hold --once --for 1h --yes
             keepline status",
        );
        assert_ne!(scene.settings(), before);
        ground.run(1, "keepline undo --yes");
        assert_eq!(scene.changed_since(&before), "");
        for tenths in [1, 2, 3, 4, 6, 8, 10, 12] {
            ground.run(
                1,
                &format!(
                    "keepline apply rehash --yes >/dev/null 2>&1 & sleep {}.{}; kill -9 $!; wait
                     keepline undo --yes",
                    tenths / 10,
                    tenths % 10
                ),
            );
            let changed = scene.changed_since(&before);
            assert_eq!(changed, "", "killed after {tenths} tenths of a second");
        }
    }
}

scenario! {
    /// Issue 5: no entry, no loss; the address that clients see stays the virtual one.
    fn direct_goes_past_the_load_balancer_and_follows_the_tasks(ground) {
        let scene = Scene::new(ground);
        let director = &scene.directors[0];
        let through = Session::open(ground, 1, Container("app"), "trio 7000");
        for node in [1, 2] {
            ground.run(
                node,
                "(setsid keepline apply direct --service trio --yes >/run/direct.log 2>&1 </dev/null &)
                 wait_for grep -q 'following the backends' /run/direct.log; cat /run/direct.log",
            );
        }
        let mut crowd = Crowd::open(ground, 1, Container("app"), "trio 7000", COUNT);
        assert_eq!(crowd.backends, scene.replicas(), "spread over all tasks");
        let seen = Session::open(ground, 1, Container("app"), "trio 7000");
        assert_eq!(seen.server, through.server, "getpeername() shows the virtual address");
        let entries = ground.entries(1, director);
        // Those of an earlier scenario are on their way out for two minutes.
        let lives = |it: &oracle::Entry| it.server == through.server && it.state == "ESTABLISHED";
        let of_trio: Vec<_> = entries.iter().filter(|(entry, _)| lives(entry)).collect();
        assert!(of_trio.iter().all(|(entry, _)| entry.client == through.client), "{entries:?}");
        scene.forget_soon();
        scene.silence_with_one_backend_more();
        assert_eq!(crowd.write(), ALL);
        // Tasks that go: whoever is connected to them learns, new ones reach the one that is left.
        scene.scale(1);
        ground.run(1, "wait_for sh -c 'grep -c \"backends have changed\" /run/direct.log | grep -qv ^[01]$'; sleep 2");
        let fate = crowd.write();
        assert!(fate.lost > 0 && fate.survived > 0 && fate.strayed == 0, "{fate:?}");
        let fresh = Crowd::open(ground, 1, Container("app"), "trio 7000", 5);
        assert_eq!(fresh.backends, 1);
        drop(fresh);
        // None is left: refused at once, and the last one's clients learn, on a manager and a worker.
        let mut last = [(1, "app"), (2, "far")]
            .map(|(node, client)| Session::open(ground, node, Container(client), "trio 7000"));
        ground.run(1, "docker service scale --detach trio=0 >/dev/null");
        for (node, client) in [(1, "app"), (2, "far")] {
            let refused = refusal(ground, node, client, director, &through.server);
            println!("none left, node{node}:\n{refused}");
            assert!(refused.trim_end().ends_with("ECONNREFUSED after 0.0 s"), "{refused}");
        }
        for session in &mut last {
            assert!(session.write().starts_with("lost"));
        }
        // A worker is told no more of it, and goes on with what it followed.
        std::thread::sleep(Duration::from_secs(5));
        for node in [1, 2] {
            let log = ground.run(node, "cat /run/direct.log");
            assert!(!log.contains("no service"), "node{node}: {log}");
        }
        drop(last);
        scene.scale(2);
        drop(Crowd::open_once_served(ground, 1, Container("app"), "trio 7000", 5));
        drop(Crowd::open_once_served(ground, 2, Container("far"), "trio 7000", 5));
        for node in [1, 2] {
            ground.run(
                node,
                "pkill -INT -f '^keepline apply direct'; wait_for grep -q 'no longer' /run/direct.log
                 keepline undo direct --yes; test ! -e /sys/fs/bpf/keepline",
            );
        }
        let after = Session::open(ground, 1, Container("app"), "trio 7000");
        assert!(ground.left(1, director, &after.client).is_some(), "through the director again");
    }
}

/// Tries to connect to a service that its director has no longer, until that is refused or half a
/// minute has gone: how each try ended, and after which time.
fn refusal(ground: &Ground, node: u8, client: &str, director: &str, server: &str) -> String {
    let (address, port) = server.rsplit_once(':').expect("an address with a port");
    let pid = ground.pid(node, &ground.container(node, client));
    let script = format!(
        "left() {{ ! nsenter --net=/var/run/docker/netns/{director} ip -4 addr | grep -qF ' {address}/'; }}
         wait_for left
         nsenter --net --target {pid} python3 -c '
import errno, socket, time
begun = time.monotonic()
while True:
    s = socket.socket()
    s.settimeout(60)
    tried = time.monotonic()
    try:
        s.connect((\"{address}\", {port}))
        said = \"connected\"
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error))
    s.close()
    now = time.monotonic()
    print(f\"{{tried - begun:.1f}} s: {{said}} after {{now - tried:.1f}} s\", flush=True)
    if said == \"ECONNREFUSED\" or now - begun > 30: break
    time.sleep(0.1)
'"
    );
    ground.run(node, &script)
}

scenario! {
    fn touch_and_abort_on_the_swarm(ground) {
        let director = ground.director();
        let mut session = Session::open(ground, 1, Container("app"), "db 7000");
        ground.set_timeout(1, &director, 60);
        assert_eq!(session.write(), "survived");
        std::thread::sleep(Duration::from_secs(5));
        let before = ground.left(1, &director, &session.client).expect("an entry");
        let said = ground.run(1, "keepline touch --container app --yes");
        assert!(said.contains("1 socket: 1 answered"), "{said}");
        let after = ground.left(1, &director, &session.client).expect("an entry");
        assert!(after > before, "{before} s left before the probe, {after} after it");
        ground.set_timeout(1, &director, 5);
        assert_eq!(session.write(), "survived");
        ground.wait_forgotten(1, &director, &session.client);
        let said = ground.run(1, "keepline abort --container app --yes");
        assert!(said.contains("1 closed"), "{said}");
        let check = ground.check(1, "--service db");
        assert_eq!(check.json["summary"]["orphaned"], 0, "{:#}", check.json);
        assert!(session.write().starts_with("lost"));
    }
}
