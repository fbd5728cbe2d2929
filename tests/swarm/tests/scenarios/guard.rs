//! Issue 6: the guard on both nodes of the real Swarm, as its policy is when nobody says anything,
//! and as labels say.

use crate::guards::Guards;
use crate::scenario;
use crate::strategies::{ALL, Scene};

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
        println!("{:.1?}", guards.network_comes_and_goes(3));
        drop(guards);
        assert_eq!(scene.settings(), before);
    }
}
