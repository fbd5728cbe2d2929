//! For a newcomer: choosing by name, and reading what `check` prints.

use crate::ground::PATIENCE;
use crate::scenario;
use crate::session::{From::Container, Session};

scenario! {
    fn sessions_are_chosen_by_name_id_and_prefix(ground) {
        let to_db = Session::open(ground, 1, Container("app"), "db 7000");
        let to_far = Session::open(ground, 1, Container("app"), "far 7000");
        let from_far = Session::open(ground, 2, Container("far"), "db 7000");
        let both = [to_db.client.as_str(), to_far.client.as_str()];
        let app = ground.container(1, "app");
        let ids = ground.run(
            1,
            "docker service inspect --format '{{.ID}}' db; docker network inspect --format '{{.Id}}' net1",
        );
        let [service, network] = ids.lines().collect::<Vec<_>>()[..] else { panic!("{ids}") };

        for (select, expected) in [
            (format!("--container {}", app.name), &both[..]),
            (format!("--container {}", app.id), &both),
            (format!("--container {}", &app.id[..12]), &both),
            ("--container app".into(), &both),
            ("--container app.1".into(), &both),
            ("--service db".into(), &both[..1]),
            (format!("--service {}", &service[..8]), &both[..1]),
            ("--service fa".into(), &both[1..]),
            ("--network net1".into(), &both),
            (format!("--network {}", &network[..12]), &both),
            ("--network net".into(), &both),
            ("--service db --service far".into(), &both),
        ] {
            let check = ground.check(1, &select);
            let mut found: Vec<_> =
                check.sessions().iter().map(|it| it["client"].as_str().expect("a client")).collect();
            // The other node's session has its backend here, and its director there.
            found.retain(|client| !client.ends_with(port(&from_far.client)));
            found.sort_unstable();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(found, expected, "{select}: {:#}", check.json);
        }
    }
}

fn port(address: &str) -> &str {
    &address[address.rfind(':').expect("a port")..]
}

scenario! {
    fn a_name_that_fits_several_lists_them_and_one_that_fits_none_says_so(ground) {
        ground.service("db2", "--network net1 --constraint node.hostname==node1 --replicas 2");
        let containers: Vec<_> =
            ground.containers(1, "db2").into_iter().map(|container| container.name).collect();
        assert_eq!(containers.len(), 2);
        for (select, listed) in [
            // Both tasks of the service; "db" itself fits exactly and is no question.
            ("--container db2", vec![containers[0].as_str(), containers[1].as_str()]),
            ("--service d", vec!["db", "db2"]),
            ("--container nothing", vec!["nothing"]),
            ("--service nothing", vec!["nothing"]),
            ("--network nothing", vec!["nothing"]),
        ] {
            let script = format!("KEEPLINE_DOCKER_TIMEOUT=30s /payload/keepline check {select}");
            let output = ground.node(1).sh_within(&script, PATIENCE).unwrap();
            assert_eq!(output.status, 2, "{select}: {output:?}");
            assert_eq!(output.stdout, "", "{select}");
            println!("$ keepline check {select}\n{}", output.stderr);
            for name in listed {
                assert!(output.stderr.contains(name), "{select}: {}", output.stderr);
            }
        }
        let check = ground.check(1, "--service db");
        assert_eq!(check.status, 0, "an exact name among prefixes: {:#}", check.json);
        ground.run(1, "docker service rm db2 >/dev/null");
    }
}

scenario! {
    /// What a newcomer reads: which client, to which service on which network, and what to do.
    fn the_output_for_people_speaks_of_services_and_containers(ground) {
        let director = ground.director();
        ground.set_timeout(1, &director, 5);
        let lost = Session::open(ground, 1, Container("app"), "db 7000");
        ground.wait_forgotten(1, &director, &lost.client);
        ground.set_timeout(1, &director, 900);
        let _at_risk = Session::open(ground, 1, Container("app"), "far 7000");
        let script = "KEEPLINE_DOCKER_TIMEOUT=30s /payload/keepline check";
        let output = ground.node(1).sh_within(script, PATIENCE).unwrap();
        println!("$ keepline check\n{}{}", output.stdout, output.stderr);
        assert_eq!(output.status, 1);
        let text = &output.stdout;
        for words in ["orphaned", "service db on net1", "service far on net1", "app.1/python3", "db.1@node1", "far.1@node2", "KL001", "KL002", "help: "] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
    }
}
