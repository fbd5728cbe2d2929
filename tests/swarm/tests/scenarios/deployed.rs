//! Issue 6: the guard as a service of the Swarm and by the launcher, from the image of this repository,
//! as docs/guard.md tells it.

use crate::ground::Ground;
use crate::guard_load::{Load, forget_soon};
use crate::scenario;
use crate::strategies::{ALL, Scene};

/// Makes the images on both nodes: they have no registry. The launcher's has the Engine's own command.
const BUILD: &str = r"
# As systemd has it: mounts below /run are seen in containers.
mount --make-rshared /
mkdir -p /run/pack/swarm /run/pack/launcher /run/pack/guard
cp /payload/*.yml /run/pack/swarm/; cp /payload/config.toml /run/pack/
cp /payload/keepline /run/pack/guard/; cp -L /usr/bin/docker /run/pack/launcher/
docker build -q -t keepline:0.1.0 -f /payload/Dockerfile /run/pack/guard
printf 'FROM peer\nCOPY docker /bin/docker\n' |
  docker build -q -t launcher -f - /run/pack/launcher
";

struct Stack<'a>(&'a Ground);

impl<'a> Stack<'a> {
    fn deploy(ground: &'a Ground, file: &str) -> Self {
        ground.run(
            1,
            &format!(
                "KEEPLINE_LAUNCHER_IMAGE=launcher docker stack deploy --resolve-image never \
                   -c /run/pack/swarm/{file} keepline"
            ),
        );
        let stack = Self(ground);
        for node in [1, 2] {
            ground.run(node, "wait_for curl -sf http://127.0.0.1:9745/healthz");
        }
        stack
    }

    /// As an operator takes it away: nothing of it runs any more.
    fn remove(&self) {
        self.0.run(1, "docker stack rm keepline");
        for node in [1, 2] {
            self.0.run(
                node,
                r#"gone() { [ -z "$(docker ps -aq --filter name=keepline)" ]; }; wait_for gone"#,
            );
        }
    }
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        let seen = "docker ps -a --filter name=keepline; for one in $(docker ps -aq --filter name=keepline); do
                      docker logs --tail 30 $one 2>&1; done";
        if std::thread::panicking() {
            println!("{}", self.0.run(1, seen));
        }
        let end =
            "docker stack rm keepline; docker rm --force keepline-guard; keepline undo --yes; true";
        for node in [1, 2] {
            self.0.run(node, end);
        }
    }
}

/// What is deployed from a file keeps the sessions that `load` begins and looks at.
fn guarded(ground: &Ground, file: &str, load: impl FnOnce(&Scene<'_>)) {
    let scene = Scene::new(ground);
    forget_soon(&scene);
    let soon = [1, 2].map(|node| scene.settings_on(node));
    let stack = Stack::deploy(ground, file);
    load(&scene);
    // The journal is the node's: what is in force is seen, and taken back, from outside.
    let status = ground.run(1, "keepline status");
    assert!(status.contains("guard: since"), "{status}");
    stack.remove();
    for node in [1, 2] {
        ground.run(node, "keepline undo --yes");
    }
    assert_eq!([1, 2].map(|node| scene.settings_on(node)), soon, "what is removed leaves nothing");
}

scenario! {
    fn the_image_guards_as_a_service_and_by_the_launcher(ground) {
        for node in [1, 2] {
            ground.run(node, BUILD);
        }
        // A service cannot write settings: sessions of which neither end is here are not kept by it.
        guarded(ground, "stack.yml", |scene| {
            let mut crowds = scene.crowds();
            for _ in 0..2 {
                scene.silence_of_a_timeout();
            }
            for crowd in &mut crowds {
                assert_eq!(crowd.write(), ALL);
            }
        });
        guarded(ground, "launcher.yml", |_| {
            let metrics = || ground.run(1, "curl -sf http://127.0.0.1:9745/metrics | grep -v _bucket");
            Load::begin(ground).loses_nothing(10, metrics);
        });
    }
}
