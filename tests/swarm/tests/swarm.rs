//! A real Docker Swarm of two guests.

use std::time::Duration;

use keepline_swarm_tests::{Guests, skip};

/// Guests emulated in software on a busy machine take their time.
const PATIENCE: Duration = Duration::from_secs(400);

#[test]
fn a_service_answers_over_its_vip_across_nodes() {
    if skip("a_service_answers_over_its_vip_across_nodes") {
        return;
    }
    let guests = Guests::boot(2, None).unwrap();
    guests.swarm().unwrap();
    let manager = guests.node(1);
    assert_eq!(manager.ok("docker node ls --format '{{.Status}}'").unwrap(), "Ready\nReady\n");

    // The server lives on the other node, so what answers has crossed the network. The client
    // is a service as well: attaching a container to the network from outside has a deadline
    // of 20 seconds in the Engine, which a busy machine misses.
    manager
        .ok_within(
            "docker network create -d overlay net1
             docker service create -q --detach --no-resolve-image --network net1 --name db \
               --constraint node.hostname==node2 peer python3 /peer.py serve 7000
             docker service create -q --detach --no-resolve-image --network net1 --name app \
               --constraint node.hostname==node1 --restart-condition on-failure \
               --restart-delay 1s peer python3 /peer.py idle db 7000 600 /go",
            PATIENCE,
        )
        .unwrap();
    manager
        .ok_within(
            r#"cat >/run/app <<'END'
               docker ps -aq --filter label=com.docker.swarm.service.name=app | while read -r id
               do docker logs "$id" 2>&1 | grep "^$1" && echo "$id" && exit; done
END
               until bash /run/app connected | grep .; do sleep 1; done"#,
            PATIENCE,
        )
        .unwrap();

    // While the session is open, the director on the client's node has service and entry.
    let director = "nsenter --net=$(echo /var/run/docker/netns/lb_*) ipvsadm";
    let services = manager.ok(&format!("{director} -Sn")).unwrap();
    let vip = services.lines().find(|line| line.starts_with("-A -f ")).unwrap_or_default();
    assert!(vip.ends_with(" -s rr"), "{services}");
    let entries = manager.ok(&format!("{director} -Lnc")).unwrap();
    assert!(entries.contains(" ESTABLISHED "), "{entries}");

    let said = manager
        .ok_within(
            r#"docker exec "$(bash /run/app connected | tail -n 1)" busybox touch /go || exit
               until bash /run/app survived | grep .; do sleep 1; done; bash /run/app connected"#,
            PATIENCE,
        )
        .unwrap();
    let server =
        guests.node(2).ok("docker ps -q --filter label=com.docker.swarm.service.name=db").unwrap();
    // The host name of a container is its id.
    assert!(said.contains(&format!(" {}\n", server.trim())), "{said}from {server}");
}
