//! Issue 6: the Engine goes and comes, its socket does, and a network.

use std::{thread::sleep, time::Duration};

use serde_json::json;

use crate::crowd::Crowd;
use crate::ground::Ground;
use crate::guards::Guards;
use crate::scenario;
use crate::session::From::{Container, Host};
use crate::strategies::{ALL, COUNT, Scene};

/// Docker's socket on node1, away until dropped.
struct SocketGone<'a>(&'a Ground);

impl<'a> SocketGone<'a> {
    fn begin(ground: &'a Ground) -> Self {
        ground.run(1, "mv /var/run/docker.sock /var/run/docker.sock.away");
        Self(ground)
    }
}

impl Drop for SocketGone<'_> {
    fn drop(&mut self) {
        self.0.run(1, "mv /var/run/docker.sock.away /var/run/docker.sock");
    }
}

scenario! {
    fn dockers_socket_is_gone_for_a_minute(ground) {
        let scene = Scene::new(ground);
        scene.forget_soon();
        let soon = scene.settings();
        let guards = Guards::start(ground);
        let mut crowds = scene.crowds();
        let guarded = scene.settings();
        assert_ne!(guarded, soon, "policy is in force");
        let gone = SocketGone::begin(ground);
        sleep(Duration::from_secs(50));
        println!("while it is gone: {:#}", guards.told(1)["troubles"]);
        assert_eq!(scene.settings(), guarded);
        sleep(Duration::from_secs(10));
        drop(gone);
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL, "{}", guards.metrics());
        }
        assert_eq!(scene.settings(), guarded);
        let director = ground.director();
        ground.run(
            1,
            &format!(
                "set_to() {{ nsenter --net=/var/run/docker/netns/{director} ipvsadm -Ln --timeout | grep -q \" $1 \"; }}
                 docker service update -q --detach --label-add keepline.strategy=timeout \
                   --label-add keepline.tcp-timeout=2h trio >/dev/null
                 wait_for set_to 7200
                 docker service update -q --detach --label-rm keepline.strategy \
                   --label-rm keepline.tcp-timeout trio >/dev/null
                 wait_for set_to 12"
            ),
        );
        guards.wait_until_nothing_troubles(1);
        guards.end();
        assert_eq!(scene.settings(), soon, "what is removed leaves nothing");
    }
}

scenario! {
    /// The manager's. Its containers end with it (a Swarm knows no live-restore) and its directors are
    /// made anew. What has neither end there lives on: the sessions of node1 itself to backends on node2,
    /// whose entries die with `ingress_sbox`, and those of node2.
    fn the_engine_is_restarted_and_sessions_through_its_directors_live(ground) {
        let scene = Scene::new(ground);
        ground.service("outer", "--network net1 --constraint node.hostname==node2 --publish 8082:7000");
        scene.forget_soon();
        let guards = Guards::start(ground);
        let mut through = Crowd::open(ground, 1, Host, "192.168.77.1 8082", COUNT);
        let mut beside = Crowd::open(ground, 2, Container("far"), "outer 7000", COUNT);
        scene.silence_of_a_timeout();
        let took = guards.ingress_is_under_policy_again(
            1,
            "kill $(pgrep -x dockerd); while pgrep -x dockerd >/dev/null; do sleep 0.2; done; start_dockerd",
        );
        assert!(took.soon());
        ground.run(1, "wait_for dockerd_answers");
        ground.wait_running(&["app", "db", "far", "trio", "outer"]);
        println!("{}", ground.run(1, "keepline check --service outer --all || true; keepline status"));
        assert_eq!(through.write(), ALL, "{}", guards.metrics());
        assert_eq!(beside.write(), ALL);
        // The new directors are guarded as the old ones were.
        scene.forget_soon();
        let mut crowds = [(Container("app"), "db 7000"), (Host, "192.168.77.1 8082")].map(|(from, target)| {
            Crowd::open_once_served(ground, 1, from, target, COUNT)
        });
        for _ in 0..2 {
            scene.silence_of_a_timeout();
        }
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL, "{}", guards.metrics());
        }
        assert_eq!(through.write(), ALL, "{}", guards.metrics());
        guards.wait_until_nothing_troubles(1);
    }
}

scenario! {
    fn a_network_removed_and_made_again_is_under_policy_at_once(ground) {
        let scene = Scene::new(ground);
        let before = scene.settings();
        let guards = Guards::start(ground);
        for hours in [3, 4] {
            let took = guards.network_comes_and_goes(hours);
            assert!(took.soon());
            guards.wait_until_nothing_troubles(1);
        }
        assert_eq!(guards.told(2)["troubles"], json!([]));
        guards.end();
        assert_eq!(scene.settings(), before, "what is removed leaves nothing");
    }
}
