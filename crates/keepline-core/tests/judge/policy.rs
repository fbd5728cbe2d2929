//! What holds where.

use keepline_core::{
    policy::{Layer, Policies, Remembered, Rules, Source, Strategy, label_faults},
    snapshot::Topology,
};

use crate::{build::seconds, names::topology};

fn layer(pairs: &[(&str, &str)]) -> Layer {
    let mut layer = Layer::default();
    for (key, value) in pairs {
        layer.set(key, value).unwrap();
    }
    layer
}

pub fn rules(pairs: &[(&str, &str)]) -> Rules {
    Rules { everything: layer(pairs), ..Rules::default() }
}

pub fn policies(rules: &Rules, topology: &Topology) -> Policies {
    let (policies, invalid) = Policies::of(rules, Some(topology), &mut Remembered::default());
    assert_eq!(invalid, []);
    policies
}

pub fn label(topology: &mut Topology, key: &str, value: &str) {
    let key = format!("keepline.{key}");
    topology.services[0].labels.insert(key, value.to_owned());
}

#[test]
fn service_over_network_over_everything_and_label_over_file() {
    let mut topology = topology();
    let mut rules = rules(&[("strategy", "timeout"), ("tcp-timeout", "1h")]);
    let network = topology.networks[0].clone();
    let service = &network.services[0];
    let strategy = |rules: &Rules, topology: &Topology| {
        let policies = policies(rules, topology);
        let said = policies.service(&network, service).strategy;
        (said.value, said.source)
    };
    assert_eq!(strategy(&Rules::default(), &topology), (Strategy::Auto, Source::BuiltIn));
    assert_eq!(strategy(&rules, &topology), (Strategy::Timeout, Source::File));
    rules.networks.insert("net1".to_owned(), layer(&[("strategy", "hold")]));
    assert_eq!(strategy(&rules, &topology), (Strategy::Hold, Source::NetworkFile));
    let labels = &mut topology.networks[0].labels;
    labels.insert("keepline.strategy".to_owned(), "off".to_owned());
    assert_eq!(strategy(&rules, &topology), (Strategy::Off, Source::NetworkLabel));
    rules.services.insert("db".to_owned(), layer(&[("strategy", "rehash")]));
    assert_eq!(strategy(&rules, &topology), (Strategy::Rehash, Source::ServiceFile));
    label(&mut topology, "strategy", "direct");
    assert_eq!(strategy(&rules, &topology), (Strategy::Direct, Source::ServiceLabel));
    // What is not said anywhere nearer is as it was said further away.
    let policies = policies(&rules, &topology);
    let timeout = policies.service(&network, service).tcp_timeout;
    assert_eq!((timeout.value, timeout.source), (seconds(3600), Source::File));
}

#[test]
fn a_label_that_says_nothing_leaves_its_object_as_it_was() {
    let mut remembered = Remembered::default();
    let mut topology = topology();
    let network = topology.networks[0].clone();
    let mut strategy = |topology: &Topology| {
        let (policies, invalid) = Policies::of(&Rules::default(), Some(topology), &mut remembered);
        (policies.service(&network, &network.services[0]).strategy.value, invalid.len())
    };
    label(&mut topology, "strategy", "off");
    assert_eq!(strategy(&topology), (Strategy::Off, 0));
    label(&mut topology, "strategy", "of");
    assert_eq!(strategy(&topology), (Strategy::Off, 1));
    topology.services[0].labels.clear();
    assert_eq!(strategy(&topology), (Strategy::Auto, 0));
    label(&mut topology, "keepalive-idle", "0s");
    assert_eq!(strategy(&topology), (Strategy::Auto, 1));
    let faults = label_faults(&topology);
    let text = faults[0].to_string();
    assert!(text.starts_with("service db: keepline.keepalive-idle = `0s`: the kernel"), "{text}");
}

#[test]
fn every_value_is_looked_at() {
    let good = [
        ("strategy", "auto"),
        ("tcp-timeout", "2h"),
        ("keepalive-idle", "5m"),
        ("keepalive-interval", "30s"),
        ("keepalive-probes", "5"),
        ("keepalive-enforce", "false"),
        ("heal", "false"),
    ];
    for (key, value) in good {
        assert_eq!(Layer::default().set(key, value), Ok(()), "{key}");
        for wrong in ["", "x", "-1", "999999999h", "1e9"] {
            assert!(Layer::default().set(key, wrong).is_err(), "{key} = {wrong:?}");
        }
    }
    assert!(Layer::default().set("strateg", "hold").unwrap_err().contains("tcp-timeout"));
}
