//! Issue 6: a node is rebooted, and guarded again from its boot on.

use std::time::Instant;

use crate::crowd::Crowd;
use crate::guards::Guards;
use crate::scenario;
use crate::session::From::{Container, Host};
use crate::strategies::{ALL, COUNT, INGRESS, Scene, TIMEOUT};

scenario! {
    fn a_node_rebooted_is_guarded_from_its_boot_on(ground) {
        let scene = Scene::new(ground);
        let guards = Guards::start(ground);
        let begun = Instant::now();
        ground.reboot(2);
        println!("rebooted after {:.0} s", begun.elapsed().as_secs_f64());
        // Nothing of before is left but what is on the disk, and the Engine is not there yet.
        ground.run(2, "[ ! -e /run/keepline ] && ! pgrep -x dockerd");
        guards.start_at_boot(2);
        let took = guards.ingress_is_under_policy_again(2, "start_dockerd");
        println!("its Engine balances after {:.0} s", begun.elapsed().as_secs_f64());
        assert!(took.soon());
        ground.wait_running(&["app", "db", "far", "trio"]);
        ground.run(2, "there() { [ -n \"$(containers far)\" ]; }; wait_for there");
        println!("its tasks run after {:.0} s", begun.elapsed().as_secs_f64());
        scene.forget_within(2, TIMEOUT);
        let mut crowds = [(Container("far"), "trio 7000"), (Host, "192.168.77.2 8080")].map(|(from, target)| {
            Crowd::open_once_served(ground, 2, from, target, COUNT)
        });
        for _ in 0..3 {
            scene.silence_of_a_timeout();
        }
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL, "{}", guards.log(2));
        }
        let rules = ground.in_director(2, INGRESS, "ipvsadm -Sn");
        assert!(rules.contains("-s mh") && !rules.contains("-s rr"), "{rules}");
        guards.wait_until_nothing_troubles(2);
        drop((crowds, guards));
        // Its tasks may all be on node1 by now: the next scenario's are spread anew.
        ground.run(1, "docker service rm trio >/dev/null; gone() { ! engine /services/trio; }; wait_for gone");
    }
}
