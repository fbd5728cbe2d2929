//! Issue 6: the guard dies at random moments, and is replaced by another binary while it runs.

use std::time::Instant;

use crate::guards::Guards;
use crate::scenario;
use crate::strategies::{ALL, Scene};

const SEED: u64 = 6;
const KILLS: usize = 50;
/// Within which a guard is killed after its start: before its first look, amid it, after it.
const LONGEST_LIFE: f64 = 3.0;
/// Seconds after which directors forget: several lives, of which in a slow guest not all get to hold.
const TIMEOUT: u32 = 30;

/// Times in seconds, spread evenly, the same each time.
fn moments() -> String {
    let mut state = SEED;
    let moments = std::iter::repeat_with(|| {
        // Knuth's numbers, of MMIX.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = f64::from((state >> 32) as u32) / f64::from(u32::MAX);
        format!("{:.2}", part * LONGEST_LIFE)
    });
    moments.take(KILLS).collect::<Vec<_>>().join(" ")
}

scenario! {
    fn killed_fifty_times_and_upgraded_in_place_it_breaks_no_session(ground) {
        let scene = Scene::new(ground);
        scene.forget_within(1, TIMEOUT);
        let before = scene.settings();
        let guards = Guards::start(ground);
        let mut crowds = scene.crowds();
        let begun = Instant::now();
        let moments = moments();
        println!("killed after these seconds (seed {SEED}): {moments}");
        guards.killed_after_each(&moments);
        let log = guards.log(1);
        println!(
            "{KILLS} kills in {:.0} s; of all guards {} had begun to guard, {} things were done",
            begun.elapsed().as_secs_f64(),
            log.matches("guarding").count(),
            log.matches("done strategy").count()
        );
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL, "{}", guards.metrics());
        }
        guards.upgraded();
        std::thread::sleep(std::time::Duration::from_secs(u64::from(TIMEOUT)));
        for crowd in &mut crowds {
            assert_eq!(crowd.write(), ALL, "{}", guards.metrics());
        }
        assert_eq!(guards.told(1)["troubles"], serde_json::json!([]));
        assert_ne!(scene.settings(), before, "policy is in force");
        guards.end();
        assert_eq!(scene.settings(), before, "what is removed leaves nothing");
        let status = ground.run(1, "keepline status; ls -A /sys/fs/bpf");
        assert!(status.contains("Nothing is applied.") && !status.contains("keepline"), "{status}");
    }
}
