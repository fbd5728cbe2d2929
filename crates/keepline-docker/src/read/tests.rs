//! One odd field costs that field, and nothing else.

use serde_json::{Value, json};

use super::*;

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/engine-29/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Pointers to everything inside `value`.
fn places(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut walk = |key: String, inner: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        found.push(format!("/{key}"));
        found.extend(places(inner).into_iter().map(|place| format!("/{key}{place}")));
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(key, it)| walk(key.clone(), it)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, it)| walk(index.to_string(), it));
        }
        _ => {}
    }
    found
}

/// Every field of `whole`, one at a time, with every odd value; `check` gets the place and
/// the document.
fn spoil(whole: &Value, check: impl Fn(&str, &Value)) {
    let odd = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e300),
        json!(""),
        json!("\u{1b}[2J/../é"),
        json!([[], null, {}]),
        json!({"": null, "a": [], "Id": {}}),
    ];
    let places = places(whole);
    assert!(places.len() > 10);
    for place in places {
        for value in &odd {
            let mut spoiled = whole.clone();
            *spoiled.pointer_mut(&place).unwrap() = value.clone();
            check(&place, &spoiled);
        }
    }
}

#[test]
fn containers() {
    let listed = &fixture("containers")[0];
    let inspected = &fixture("container-web");
    let whole = container(listed, inspected).unwrap();
    spoil(listed, |place, spoiled| match container(spoiled, inspected) {
        None => assert_eq!(place, "/Id"),
        Some(found) => {
            // What the inspection tells does not depend on the list.
            assert_eq!((&found.name, &found.sandbox), (&whole.name, &whole.sandbox), "{place}");
            assert_eq!(found.networks, whole.networks, "{place}");
        }
    });
    spoil(inspected, |place, spoiled| {
        let found = container(listed, spoiled).unwrap();
        assert_eq!((&found.id, &found.service), (&whole.id, &whole.service), "{place}");
        if !place.contains("SandboxKey") && place != "/NetworkSettings" {
            assert_eq!(found.sandbox, whole.sandbox, "{place}");
        }
    });
}

#[test]
fn networks() {
    let listed = &fixture("networks")[0];
    let inspected = &fixture("network-shop");
    let whole = network(listed, inspected).unwrap();
    spoil(listed, |place, spoiled| match network(spoiled, inspected) {
        None => assert_eq!(place, "/Id"),
        Some(found) => assert_eq!(found.services, whole.services, "{place}"),
    });
    spoil(inspected, |place, spoiled| {
        let found = network(listed, spoiled).unwrap();
        assert_eq!(found.lb_namespace, whole.lb_namespace, "{place}");
        if !place.starts_with("/Services") {
            assert_eq!(found.services, whole.services, "{place}");
        } else if place.starts_with("/Services/shop_web") {
            assert_eq!(found.services[0], whole.services[0], "{place}");
        }
    });
}

#[test]
fn the_swarm() {
    let info = &fixture("info");
    let whole = about(info);
    assert!(whole.manager);
    spoil(info, |place, spoiled| {
        let found = about(spoiled);
        if !place.starts_with("/Swarm") {
            assert!(found.manager && found.id == whole.id, "{place}");
        }
    });
    let services = fixture("services");
    spoil(&services, |place, spoiled| {
        let found = all(Some(elements(spoiled).cloned().collect()), service);
        let whole = elements(&services).count();
        assert!(found.len() >= whole - 1, "{place}");
    });
    let nodes = fixture("nodes");
    spoil(&nodes, |place, spoiled| {
        // The third has no name.
        let found = all(Some(elements(spoiled).cloned().collect()), node);
        assert!((1..=2).contains(&found.len()), "{place}");
    });
}

#[test]
fn addresses_in_all_their_spellings() {
    for (text, expected) in [
        ("10.0.1.3/24", Some("10.0.1.3")),
        ("10.0.1.3", Some("10.0.1.3")),
        ("fd00::3/64", Some("fd00::3")),
        ("", None),
        ("<nil>", None),
        ("invalid IP", None),
        ("invalid Prefix", None),
        ("0.0.0.0", None),
        ("::", None),
        ("10.0.1.3:80", None),
    ] {
        assert_eq!(address(&json!(text)), expected.map(|it| it.parse().unwrap()), "{text}");
    }
}

#[test]
fn names_of_links_are_no_names() {
    let listed = json!({"Id": "aa", "Names": ["/web/db-alias", "/db"]});
    assert_eq!(container(&listed, &Value::Null).unwrap().name, "db");
    let listed = json!({"Id": "0123456789abcdef"});
    assert_eq!(container(&listed, &Value::Null).unwrap().name, "0123456789ab");
}

#[test]
fn a_container_in_anothers_namespace_has_its_sandbox() {
    let owner = json!({"Id": "aa", "Names": ["/app"]});
    let inspected = json!({"NetworkSettings": {"SandboxKey": "/run/netns/1234"}});
    let sidecar = json!({"Id": "bb", "HostConfig": {"NetworkMode": "container:aa"}});
    let orphan = json!({"Id": "cc", "HostConfig": {"NetworkMode": "container:gone"}});
    let mut topology = Topology {
        containers: vec![
            container(&sidecar, &Value::Null).unwrap(),
            container(&owner, &inspected).unwrap(),
            container(&orphan, &Value::Null).unwrap(),
        ],
        ..Topology::default()
    };
    tie(&mut topology, &HashMap::new());
    let sandboxes: Vec<_> = topology.containers.iter().map(|it| it.sandbox.as_deref()).collect();
    assert_eq!(sandboxes, [Some("/run/netns/1234"), Some("/run/netns/1234"), None]);
    assert_eq!(topology.container_of_namespace("1234").unwrap().id, "aa");
    assert_eq!(topology.netns_folder.as_deref(), Some("/run/netns"));
}

#[test]
fn labels_of_keepline_are_taken_and_others_left() {
    let labels = json!({"keepline.strategy": "hold", "com.example": "x", "keepline.heal": 1});
    let only = |labels: &BTreeMap<String, String>| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    let listed = json!({"Id": "n1", "Name": "net", "Driver": "overlay", "Labels": labels});
    let of_network = network(&listed, &Value::Null).unwrap();
    assert_eq!(only(&of_network.labels), ["keepline.strategy=hold"]);
    let told = json!({"ID": "s1", "Spec": {"Name": "db", "Labels": labels}});
    assert_eq!(only(&service(&told).unwrap().labels), ["keepline.strategy=hold"]);
    // A worker is told no service; its containers have what was given for them.
    let task = json!({"Id": "c1", "Labels": {
        "keepline.strategy": "off",
        "com.docker.swarm.service.id": "s1",
        "com.docker.swarm.service.name": "db",
    }});
    let containers = vec![container(&task, &Value::Null).unwrap()];
    let mut topology = Topology { containers, ..Topology::default() };
    tie(&mut topology, &HashMap::new());
    assert_eq!(only(&topology.services[0].labels), ["keepline.strategy=off"]);
}
