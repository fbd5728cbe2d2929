//! Sessions that no load balancer is part of.

use crate::scenario;
use crate::session::{From::Container, Session};

scenario! {
    fn dnsrr_services_and_task_addresses_are_untracked(ground) {
        ground.service(
            "rr",
            "--network net1 --endpoint-mode dnsrr --constraint node.hostname==node2",
        );
        let director = ground.director();
        ground.set_timeout(1, &director, 5);
        let app = ground.container(1, "app");
        let mut dnsrr = Session::open(ground, 1, Container("app"), "rr 7000");
        let mut task = Session::open(ground, 1, Container("app"), "tasks.db 7000");
        let vip = Session::open(ground, 1, Container("app"), "db 7000");
        let rr = ground.container(2, "rr");
        let db = ground.container(1, "db");
        assert_eq!((&dnsrr.backend, &task.backend), (&rr.id[..12].into(), &db.id[..12].into()));

        // Longer than the director remembers anything.
        ground.wait_forgotten(1, &director, &vip.client);
        let check = ground.check(1, "--all --container app.1");
        for (session, service, task, node) in
            [(&dnsrr, "rr", &rr, "node2"), (&task, "db", &db, "node1")]
        {
            let seen = check.session(&session.client);
            assert_eq!(seen["verdict"], "untracked", "{seen:#}");
            assert_eq!(seen["server"], session.server.as_str(), "{seen:#}");
            assert!(seen["director"].is_null() && seen["entry"].is_null(), "{seen:#}");
            assert_eq!((&seen["network"], &seen["service"]), (&"net1".into(), &service.into()));
            assert_eq!(seen["task"]["name"], task.name.as_str(), "{seen:#}");
            assert_eq!(seen["task"]["node"], node, "{seen:#}");
            assert_eq!(seen["container"]["name"], app.name.as_str(), "{seen:#}");
        }
        assert_eq!(check.clients("orphaned"), [vip.client.as_str()], "{:#}", check.json);

        // Counted, and listed on demand only.
        let check = ground.check(1, "--container app.1");
        assert_eq!(check.json["summary"]["untracked"], 2, "{:#}", check.json);
        assert_eq!(check.clients("untracked"), [""; 0], "{:#}", check.json);

        assert_eq!((dnsrr.write(), task.write()), ("survived".into(), "survived".into()));
    }
}
