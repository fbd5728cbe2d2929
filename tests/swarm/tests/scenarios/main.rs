//! Issues 3 to 7: Keepline on a real Docker Swarm of two nodes, judged by the
//! field's own tools.
//!
//! The Swarm is made once (`ground.rs`). Each scenario is a test that can be run alone:
//! `make swarm-test SCENARIO=the_articles_pipeline_finds_nothing`.

mod change;
mod check;
mod crowd;
mod deployed;
mod direct;
mod direct_load;
mod ground;
mod guard;
mod guard_ends;
mod guard_load;
mod guard_outages;
mod guard_reboot;
mod guards;
mod migrate;
mod names;
mod published;
mod session;
mod strategies;
mod vip;

/// A scenario: a test that is skipped where guests cannot be booted.
macro_rules! scenario {
    ($(#[$meta:meta])* fn $name:ident($ground:ident) $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            if keepline_swarm_tests::skip(stringify!($name)) {
                return;
            }
            let $ground = &$crate::ground::ground();
            $body
        }
    };
}
pub(crate) use scenario;
