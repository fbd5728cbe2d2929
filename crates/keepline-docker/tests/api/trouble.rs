//! Engines that are absent, slow, or answer nonsense: they cost names, and never a panic.

use std::{
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use keepline_docker::DockerError;

use crate::fake::{Answer, Fake, ask, free_path, not_found, replay};

const PATIENCE: Duration = Duration::from_secs(20);

/// Room for a busy machine above the client's own limit.
const SLACK: Duration = Duration::from_secs(5);

#[test]
fn no_socket_is_no_engine() {
    let host = format!("unix://{}", free_path().display());
    let error = ask(&host, PATIENCE).unwrap_err();
    assert!(matches!(error, DockerError::Absent { .. }), "{error}");
    assert!(error.to_string().starts_with("no Docker Engine at unix:///"), "{error}");
}

#[test]
fn a_socket_without_a_listener_is_no_engine() {
    let path = free_path();
    drop(UnixListener::bind(&path).unwrap());
    let error = ask(&format!("unix://{}", path.display()), PATIENCE).unwrap_err();
    std::fs::remove_file(path).unwrap();
    assert!(matches!(error, DockerError::Absent { .. }), "{error}");
}

#[test]
fn an_engine_that_hangs_costs_the_time_given_and_no_more() {
    let fake = Fake::unix(|_| Answer::Silence);
    let start = Instant::now();
    let error = fake.ask(Duration::from_millis(200)).unwrap_err();
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    assert!(matches!(error, DockerError::Slow { .. }), "{error}");
    assert!(error.to_string().ends_with("did not answer within 200ms"), "{error}");
}

#[test]
fn nonsense_everywhere_is_an_error_that_says_so() {
    let cases: [(Answer, &str); 9] = [
        (Answer::Json("<html>proxy</html>".to_owned()), "not JSON"),
        (Answer::Json(r#"[{"Id":"aa"#.to_owned()), "not JSON"),
        (Answer::Json(String::new()), "not JSON"),
        (Answer::Json("[".repeat(100_000)), "not JSON"),
        (Answer::Status(500, r#"{"message":"no\u001b[2J"}"#.to_owned()), "500: no\\u{1b}[2J"),
        (Answer::Status(502, "<html>\u{1b}</html>".to_owned()), "502: <html>\\u{1b}</html>"),
        (Answer::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec()), "invalid HTTP version"),
        (Answer::Raw(Vec::new()), "connection closed"),
        (
            Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[".to_vec()),
            "the answer broke off",
        ),
    ];
    for (answer, part) in cases {
        let fake = Fake::unix(move |_| answer.clone());
        let error = fake.ask(PATIENCE).unwrap_err();
        assert!(matches!(error, DockerError::Unusable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(part) && !text.contains('\u{1b}'), "want {part}: {text}");
    }
}

#[test]
fn answers_of_the_wrong_kind_leave_nothing_but_a_note() {
    for odd in ["null", "{}", "7", "\"text\"", "[null, 7, {}, [], {\"Id\": 5}]"] {
        let fake = Fake::unix(move |_| Answer::Json(odd.to_owned()));
        let topology = fake.ask(PATIENCE).unwrap();
        assert!(topology.containers.is_empty() && topology.networks.is_empty(), "{odd}");
        assert!(!topology.incomplete.is_empty(), "{odd}");
    }
}

#[test]
fn ids_that_are_no_ids_reach_no_path() {
    let fake = Fake::unix(|path| match path {
        "/containers/json" | "/networks" => Answer::Json(
            r#"[{"Id":"../../info","Scope":"swarm","Driver":"overlay"},
                {"Id":"a b\r\nX: y","Scope":"swarm","Driver":"overlay"},{"Id":""}]"#
                .to_owned(),
        ),
        _ => Answer::Json("{}".to_owned()),
    });
    let topology = fake.ask(PATIENCE).unwrap();
    assert!(topology.containers.is_empty() && topology.networks.is_empty());
    let mut asked = fake.asked();
    asked.sort();
    assert_eq!(asked, ["/containers/json", "/info", "/networks", "/version"]);
}

/// Each list may fail, and the others come all the same.
#[test]
fn what_fails_is_named_and_the_rest_comes() {
    let whole = replay("engine-20.10/manager", |_| None).ask(PATIENCE).unwrap();
    assert_eq!(whole.incomplete, Vec::<String>::new());
    let failing = |wanted: &'static str| {
        replay("engine-20.10/manager", move |path| {
            path.starts_with(wanted)
                .then(|| Answer::Status(500, r#"{"message":"out of order"}"#.to_owned()))
        })
        .ask(PATIENCE)
        .unwrap()
    };

    let topology = failing("/networks");
    assert_eq!(topology.incomplete, ["networks: 500: out of order"]);
    assert_eq!(topology.containers, whole.containers);
    assert!(topology.networks.is_empty());

    let topology = failing("/containers/json");
    assert_eq!(topology.incomplete, ["containers: 500: out of order"]);
    assert_eq!(topology.networks, whole.networks);

    let topology = failing("/services");
    assert_eq!(topology.incomplete, ["services: 500: out of order"]);
    // The networks still tell of services, without those that are in none.
    assert!(topology.services.iter().any(|service| service.name == "db"));

    let topology = failing("/tasks");
    assert_eq!(topology.incomplete, ["tasks: 500: out of order"]);
    assert_eq!(topology.networks, whole.networks, "addresses of nodes tell the same");

    let topology = failing("/info");
    assert_eq!(topology.incomplete, ["this node: 500: out of order"]);
    assert_eq!(topology.engine, whole.engine);
    assert_eq!(topology.containers, whole.containers);

    let topology = failing("/version");
    assert_eq!(topology, whole, "/info has the version too");
}

#[test]
fn one_container_that_hangs_costs_its_own_details_only() {
    let whole = replay("engine-20.10/manager", |_| None).ask(PATIENCE).unwrap();
    let stuck = whole.resolve_container("db").unwrap().clone();
    let path = format!("/containers/{}/json", stuck.id);
    let fake =
        replay("engine-20.10/manager", move |asked| (asked == path).then_some(Answer::Silence));
    let start = Instant::now();
    let topology = fake.ask(Duration::from_secs(4)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(4) + SLACK, "{:?}", start.elapsed());
    let count = whole.containers.len();
    assert_eq!(
        topology.incomplete,
        [format!("containers: 1 of {count} could not be inspected: no answer in time")]
    );
    // The list alone tells all but the sandbox key.
    let found = topology.containers.iter().find(|container| container.id == stuck.id).unwrap();
    assert_eq!(found.sandbox, None);
    assert_eq!(
        (&found.name, &found.service, &found.networks),
        (&stuck.name, &stuck.service, &stuck.networks)
    );
    assert_eq!(topology.containers.len(), count);
}

#[test]
fn what_goes_away_meanwhile_is_not_missed() {
    let fake = replay("engine-20.10/manager", |path| {
        (path.starts_with("/containers/") && path != "/containers/json").then(not_found)
    });
    let topology = fake.ask(PATIENCE).unwrap();
    assert!(topology.containers.is_empty());
    assert_eq!(topology.incomplete, Vec::<String>::new());
}

#[test]
fn many_containers_are_asked_for_a_few_at_a_time() {
    const COUNT: usize = 300;
    let fake = Fake::unix(|path| match path {
        "/containers/json" => {
            let items: Vec<String> =
                (0..COUNT).map(|n| format!(r#"{{"Id":"c{n}","Names":["/n{n}"]}}"#)).collect();
            Answer::Chunked(format!("[{}]", items.join(",")))
        }
        "/networks" => Answer::Chunked("[]".to_owned()),
        path if path.starts_with("/containers/") => {
            // Long enough for the next questions to arrive meanwhile.
            std::thread::sleep(Duration::from_millis(10));
            let id = path.split('/').nth(2).unwrap();
            Answer::Chunked(format!(
                r#"{{"Id":"{id}","NetworkSettings":{{"SandboxKey":"/run/netns/{id}"}}}}"#
            ))
        }
        _ => Answer::Json("{}".to_owned()),
    });
    let topology = fake.ask(PATIENCE).unwrap();
    assert_eq!(topology.containers.len(), COUNT);
    for (n, container) in topology.containers.iter().enumerate() {
        assert_eq!(container.name, format!("n{n}"));
        assert_eq!(container.sandbox.as_deref(), Some(format!("/run/netns/c{n}").as_str()));
    }
    // Eight inspections beside the four questions at the beginning.
    assert!((2..=12).contains(&fake.most_at_once()), "{}", fake.most_at_once());
}
