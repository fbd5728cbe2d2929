//! Issue 6: the guard on both nodes of the real Swarm, as its policy is when nobody says anything,
//! and as labels say.

use crate::ground::Ground;
use crate::scenario;
use crate::strategies::{ALL, Scene};

/// Guards on both nodes; ended, and everything taken back, when dropped.
struct Guards<'a>(&'a Ground);

const START: &str =
    "(setsid keepline guard --log text >>/run/guard.log 2>&1 </dev/null & echo $! >/run/guard.pid)
     wait_for curl -sf http://127.0.0.1:9745/healthz >/dev/null";

impl<'a> Guards<'a> {
    fn start(ground: &'a Ground) -> Self {
        for node in [1, 2] {
            ground.run(node, &format!("rm -f /run/guard.log; {START}"));
        }
        Self(ground)
    }

    fn killed_and_started_again(&self) {
        self.0.run(1, &format!("kill -9 \"$(cat /run/guard.pid)\"\n{START}"));
    }

    fn metrics(&self) -> String {
        self.0.run(1, "curl -sf http://127.0.0.1:9745/metrics | grep -v _bucket")
    }

    /// Ends them as an operator does who removes the package.
    fn end(&self) {
        for node in [1, 2] {
            self.0.run(
                node,
                "kill \"$(cat /run/guard.pid)\"; wait_for sh -c '! kill -0 \"$(cat /run/guard.pid)\" 2>/dev/null'
                 keepline undo --yes",
            );
        }
    }
}

impl Drop for Guards<'_> {
    fn drop(&mut self) {
        for node in [1, 2] {
            let end =
                "pkill -f '^keepline guard'; tail -n 40 /run/guard.log; keepline undo --yes; true";
            if std::thread::panicking() {
                println!("node{node}'s guard:\n{}", self.0.run(node, end));
            } else {
                self.0.run(node, end);
            }
        }
    }
}

scenario! {
    /// Sessions to a VIP and to a published port, over three backends on two nodes; the guard dies
    /// three times meanwhile.
    fn guarded_sessions_survive_and_nothing_is_left(ground) {
        let scene = Scene::new(ground);
        let before = scene.settings();
        scene.forget_soon();
        let soon = scene.settings();
        let guards = Guards::start(ground);
        let mut crowds = scene.crowds();
        for _ in 0..3 {
            scene.silence_of_a_timeout();
            guards.killed_and_started_again();
        }
        scene.silence_of_a_timeout();
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL, "{}", guards.metrics());
        }
        let status = ground.run(1, "keepline status");
        assert!(status.contains("guard: since") && status.contains("→ mh"), "{status}");
        guards.end();
        assert_eq!(scene.settings(), soon, "what is removed leaves nothing");
        assert_ne!(before, soon);
    }
}

scenario! {
    /// A label is in force on a director that is there, comes with one that is made, and goes.
    fn labels_are_followed_live(ground) {
        let scene = Scene::new(ground);
        let before = scene.settings();
        let guards = Guards::start(ground);
        let director = ground.director();
        let show = |director: &str| {
            format!("nsenter --net=/var/run/docker/netns/{director} ipvsadm -Ln --timeout")
        };
        ground.run(
            1,
            &format!(
                "docker service update -q --detach --label-add keepline.strategy=timeout \
                   --label-add keepline.tcp-timeout=2h trio >/dev/null
                 set_to() {{ {} | grep -q \" $1 \"; }}
                 wait_for set_to 7200
                 keepline policy | grep -E 'service trio +timeout +service.s label +tcp-timeout 2h'
                 docker service update -q --detach --label-add keepline.strategy=tiemout trio >/dev/null
                 understood() {{ keepline status | grep -q 'keepline.strategy = `tiemout`'; }}
                 wait_for understood; set_to 7200
                 docker service update -q --detach --label-rm keepline.strategy \
                   --label-rm keepline.tcp-timeout trio >/dev/null
                 wait_for set_to 900",
                show(&director),
            ),
        );
        // Its director is made with its first task.
        let said = ground.run(
            1,
            "docker network create -d overlay --label keepline.strategy=timeout \
               --label keepline.tcp-timeout=3h net2 >/dev/null
             file=/var/run/docker/netns/lb_$(docker network inspect --format '{{.Id}}' net2 | cut -c1-9)
             docker service create -q --detach --no-resolve-image --stop-grace-period 1s --name late \
               --network net2 --constraint node.hostname==node1 peer python3 /peer.py serve 7000 >/dev/null
             balances() { nsenter --net=$file ipvsadm -Ln 2>/dev/null | grep -q FWM; }
             until balances; do sleep 0.1; done; start=$(date +%s%N)
             until nsenter --net=$file ipvsadm -Ln --timeout | grep -q ' 10800 '; do sleep 0.1; done
             echo \"in force $(( ($(date +%s%N) - start) / 1000000 )) ms after the director balances\"
             docker service rm late >/dev/null
             gone() { [ ! -e $file ]; }
             wait_for gone; docker network rm net2 >/dev/null",
        );
        println!("{said}");
        let gone = "forgotten() { keepline status | grep -q 10800 && return 1 || return 0; }; wait_for forgotten";
        ground.run(1, gone);
        drop(guards);
        assert_eq!(scene.settings(), before);
    }
}
