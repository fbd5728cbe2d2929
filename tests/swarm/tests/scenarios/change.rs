//! What changes under Keepline's eyes: services that come and go, an Engine that restarts.

use std::collections::BTreeSet;

use crate::check::{Check, number};
use crate::ground::Ground;
use crate::scenario;
use crate::session::{
    From::{Container, Host},
    Session,
};

scenario! {
    /// Directors keep their 15 minutes, which no session of this scenario is silent for. But they
    /// forget a session at its next packet when its backend is gone (`expire_nodest_conn`), the
    /// acknowledgement of the backend's own end included, and then its client's socket is open until
    /// it is used. So whatever is called orphaned must be one whose client says that it was lost.
    fn a_service_scaled_updated_and_removed_makes_no_false_orphan(ground) {
        ground.service("shop", "--network net1");
        let steady = Session::open(ground, 1, Container("app"), "db 7000");
        let mut silent = Session::open(ground, 1, Container("app"), "shop 7000");
        ground.run(
            1,
            r#"inside app python3 -c "$(cat /payload/visits.py)" shop 7000 \
                 >/run/visits 2>/run/visits.err &
               mkdir -p /run/looks; rm -f /run/looks/*; touch /run/look
               for ((number = 0; number < 1000; number++)); do
                 [ -e /run/look ] || break
                 keepline check -o json >/run/looks/$number.json 2>/run/looks/$number.err
                 echo $? >/run/looks/$number.status; sleep 2
               done >/dev/null 2>&1 &"#,
        );
        ground.run(1, "docker service scale --detach shop=3 >/dev/null");
        ground.wait_running(&["shop"]);
        let old = ground.run(1, "docker service ps -q --filter desired-state=running shop");
        // A task with something new takes the place of each.
        ground.run(1, "docker service update --detach --force --update-parallelism 0 shop >/dev/null");
        ground.run(
            1,
            &format!(
                "replaced() {{ docker service ps -q --filter desired-state=running shop |
                   {{ ! grep -qF '{}'; }}; }}
                 wait_for replaced; wait_for tasks_run 3 shop",
                old.trim()
            ),
        );
        // Its backend was replaced; without the service it would wait for an answer for long.
        let fate = silent.write();
        assert!(fate.starts_with("lost"), "{fate}");
        ground.run(
            1,
            "docker service rm shop >/dev/null
             gone() { [ -z \"$(containers shop)\" ]; }; wait_for gone",
        );
        // A look that began after the removal, whole.
        let looks = ground.run(
            1,
            r#"begun=$(ls /run/looks/*.json | wc -l)
               enough() { [ "$(ls /run/looks/*.status | wc -l)" -gt "$begun" ]; }; wait_for enough
               rm /run/look; looking() { jobs=$(pgrep -x keepline); [ -z "$jobs" ]; }; wait_for looking
               cd /run/looks; python3 -c 'import glob, json
print(json.dumps([[int(open(name).read())] + [open(name[:-6] + end).read() for end in ("json", "err")]
                  for name in sorted(glob.glob("*.status"), key=lambda it: int(it[:-7]))]))'"#,
        );
        let looks: Vec<(i32, String, String)> = serde_json::from_str(&looks).expect("looks");
        let visits = ground.run(1, "cat /run/visits");
        let mut lost = lost(&visits);
        lost.extend(silent.client.rsplit(':').next());
        println!("{} looks, {} visits, lost: {lost:?}", looks.len(), visits.lines().count());
        assert!(looks.len() >= 5, "{} looks", looks.len());
        for (status, stdout, stderr) in looks {
            assert!(!stderr.contains("panicked"), "{stderr}");
            let check = Check::new(keepline_swarm_tests::Output { status, stdout, stderr });
            let orphans = check.clients("orphaned");
            for client in &orphans {
                let (address, port) = client.rsplit_once(':').expect("a port");
                assert_eq!(Some(address), steady.client.rsplit_once(':').map(|(address, _)| address));
                assert!(lost.contains(port), "{client} was not lost: {:#}\n{visits}", check.json);
            }
            // That a namespace goes in the middle of a look may leave that look incomplete.
            let expected = match (orphans.is_empty(), check.json["scan"]["incomplete"] == serde_json::json!([])) {
                (false, _) => 1,
                (true, true) => 0,
                (true, false) => 3,
            };
            assert_eq!(check.status, expected, "{:#}\n{}", check.json, check.stderr);
            if expected != 0 {
                println!("incomplete: {}; orphaned: {orphans:?}", check.json["scan"]["incomplete"]);
            }
            let seen = check.session(&steady.client);
            assert_eq!((&seen["verdict"], &seen["service"]), (&"at-risk".into(), &"db".into()), "{seen:#}");
        }
    }
}

/// The ports of visitors that were reset or got no answer, and of no other ones.
fn lost(visits: &str) -> BTreeSet<&str> {
    let fates: Vec<(&str, &str)> = visits
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            (words.next().unwrap_or_default(), words.next().unwrap_or_default())
        })
        .collect();
    let ports = |of_lost: bool| -> BTreeSet<&str> {
        let alike = fates.iter().filter(|(fate, _)| (*fate == "lost") == of_lost);
        alike.map(|(_, port)| *port).collect()
    };
    // A port may have been used twice.
    &ports(true) - &ports(false)
}

scenario! {
    /// The Engine of the worker is killed and started again. Its containers end then (a Swarm
    /// knows no live-restore) and its directors are made anew: a session that has neither end in
    /// one of them, from the host through `ingress_sbox` to the other node, is open and forgotten.
    fn dockerd_restarted(ground) {
        ground.service("web", "--constraint node.hostname==node1 --publish 8081:7000");
        let web = ground.container(1, "web");
        let mut open = Session::open(ground, 2, Host, "192.168.77.2 8081");
        assert_eq!(open.backend, web.id[..12]);
        let inside = Session::open(ground, 2, Container("far"), "db 7000");
        let far = ground.container(2, "far");

        let check = ground.check(2, "");
        let seen = check.session(&open.client);
        assert_eq!((&seen["verdict"], &seen["director"]), (&"at-risk".into(), &"ingress_sbox".into()), "{seen:#}");
        assert_eq!((&seen["network"], &seen["service"]), (&"ingress".into(), &"web".into()), "{seen:#}");

        // While it is dead: containers, directors and sessions live; verdicts come from the kernel.
        ground.run(2, "kill -9 $(pgrep -x dockerd); while pgrep -x dockerd; do sleep 0.2; done");
        let before = ground.left(2, "ingress_sbox", &open.client).expect("an entry");
        let check = ground.check(2, "");
        for client in [&open.client, &inside.client] {
            let seen = check.session(client);
            assert_eq!(seen["verdict"], "at-risk", "{seen:#}");
            assert!(seen["service"].is_null() && seen["network"].is_null(), "{seen:#}");
        }
        assert!(number(check.session(&open.client), "orphaned_in_seconds") <= before + 2.0);
        let seen = check.session(&inside.client);
        assert_eq!(seen["container"]["id"], far.id.as_str(), "{seen:#}");
        assert!(
            check.json["findings"].as_array().is_some_and(|all| all.iter().any(|it| it["code"] == "KL014")),
            "nothing says why names are missing: {:#}",
            check.json
        );
        assert_eq!(check.status, 0, "{:#}", check.json);

        ground.run(2, "start_dockerd; wait_for dockerd_answers");
        ground.run(
            2,
            &format!(
                "again() {{ containers far | grep -qvF {}; }}; wait_for again
                 balances() {{ nsenter --net=/var/run/docker/netns/ingress_sbox ipvsadm -Ln | grep -q FWM; }}
                 wait_for balances",
                far.id
            ),
        );

        // Truly forgotten: the socket is there, the entry is not.
        assert_eq!(ground.left(2, "ingress_sbox", &open.client), None);
        let sockets = ground.run(2, "ss -Htn state established");
        assert!(sockets.contains(&format!(" {} ", open.client)), "{sockets}");
        let check = ground.check(2, "--all");
        let seen = check.session(&open.client);
        assert_eq!(seen["verdict"], "orphaned", "{seen:#}");
        assert_eq!((&seen["network"], &seen["service"]), (&"ingress".into(), &"web".into()), "{seen:#}");
        assert_eq!(check.clients("orphaned"), [open.client.as_str()], "{:#}", check.json);

        // Names are back, those of the new containers, and new sessions are judged as ever.
        let director = ground.director();
        let anew = Session::open(ground, 2, Container("far"), "db 7000");
        let far = ground.container(2, "far");
        let db = ground.container(1, "db");
        let check = ground.check(2, "");
        let seen = check.session(&anew.client);
        assert_eq!((&seen["verdict"], &seen["director"]), (&"at-risk".into(), &director.as_str().into()), "{seen:#}");
        assert_eq!((&seen["network"], &seen["service"]), (&"net1".into(), &"db".into()), "{seen:#}");
        assert_eq!(seen["container"]["name"], far.name.as_str(), "{seen:#}");
        assert_eq!(seen["task"]["name"], db.name.as_str(), "{seen:#}");
        agrees(ground, &check, &director, &anew.client);

        assert_eq!(open.write(), "lost ConnectionResetError");
    }
}

/// Whether the countdown is that of `ipvsadm`, which is asked after it.
fn agrees(ground: &Ground, check: &Check, director: &str, client: &str) {
    let left = ground.left(2, director, client).expect("an entry");
    let ours = number(check.session(client), "orphaned_in_seconds");
    assert!((left..=900.0).contains(&ours), "{ours} s left; ipvsadm says {left}");
}
