//! Issue 2, "Tests in virtual machines": the lab's four layouts on a kernel with IPVS, each
//! judged by Keepline and by the field's own tools.
//!
//! A layout is played once (`story.rs`), the tests compare what was written down. Run them
//! with `--test-threads=1`, or they all wait for the same guest.

mod compare;
mod scenarios;
mod story;

use keepline_swarm_tests::skip;

/// Makes a module for a layout with a test for each comparison named.
macro_rules! layout {
    ($layout:ident: $($test:ident),+ $(,)?) => {
        mod $layout {
            $(
                #[test]
                fn $test() {
                    if super::skip(concat!(stringify!($layout), "::", stringify!($test))) {
                        return;
                    }
                    super::compare::$test(super::story::Story::of(stringify!($layout)));
                }
            )+
        }
    };
}

layout!(swarm:
    services_are_those_of_ipvsadm,
    timeouts_are_those_of_ipvsadm,
    timeouts_are_those_of_conntrack,
    sockets_are_those_of_ss,
    ipvs_entries_are_those_of_ipvsadm,
    conntrack_entries_are_those_of_conntrack,
    sessions_are_at_risk_with_the_time_left,
    orphans_are_what_the_director_lacks,
    a_write_on_an_orphan_is_reset,
    the_articles_pipeline_finds_nothing,
    nothing_is_left,
);

layout!(classic:
    services_are_those_of_ipvsadm,
    timeouts_are_those_of_ipvsadm,
    timeouts_are_those_of_conntrack,
    sockets_are_those_of_ss,
    ipvs_entries_are_those_of_ipvsadm,
    conntrack_entries_are_those_of_conntrack,
    sessions_are_at_risk_with_the_time_left,
    orphans_are_what_the_director_lacks,
    a_write_on_an_orphan_hangs,
    the_articles_pipeline_finds_the_same,
    nothing_is_left,
);

layout!(ingress:
    services_are_those_of_ipvsadm,
    timeouts_are_those_of_ipvsadm,
    timeouts_are_those_of_conntrack,
    sockets_are_those_of_ss,
    ipvs_entries_are_those_of_ipvsadm,
    conntrack_entries_are_those_of_conntrack,
    sessions_are_at_risk_with_the_time_left,
    orphans_are_what_the_director_lacks,
    a_write_on_an_orphan_is_reset,
    nothing_is_left,
);

layout!(nat:
    services_are_those_of_ipvsadm,
    timeouts_are_those_of_conntrack,
    sockets_are_those_of_ss,
    conntrack_entries_are_those_of_conntrack,
    sessions_are_at_risk_with_the_time_left,
    orphans_are_what_the_director_lacks,
    a_write_on_an_orphan_is_reset,
    nothing_is_left,
);
