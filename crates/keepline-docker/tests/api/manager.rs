//! The calls of a manager.

use std::time::Duration;

use keepline_docker::Options;
use keepline_docker::manager::{CallError, Manager};
use serde_json::json;

use crate::fake::{Answer, Fake};

fn manager(host: &str) -> Manager {
    let timeout = Duration::from_secs(5);
    Manager::new(&Options { host: Some(host.to_owned()), tls: false, timeout }).unwrap()
}

#[test]
fn specs_are_sent_as_they_are() {
    let fake = Fake::unix(|path| match path {
        "/services/create" => Answer::Status(201, r#"{"ID":"abc","Warnings":null}"#.to_owned()),
        _ => Answer::Status(200, String::new()),
    });
    let manager = manager(&fake.host);
    let spec = json!({"Name": "db", "FromTheFuture": [1, null, "ä"]});
    assert_eq!(manager.create_service(&spec).unwrap(), "abc");
    manager.update_service("abc", 17, &spec).unwrap();
    manager.remove_service("a/../b").unwrap();
    let body = spec.to_string();
    assert_eq!(
        fake.sent(),
        [
            format!("POST /services/create {body}"),
            format!("POST /services/abc/update?version=17 {body}"),
            "DELETE /services/a%2F..%2Fb ".to_owned(),
        ]
    );
}

#[test]
fn names_are_filters() {
    let fake = Fake::unix(|_| Answer::Json("[{\"ID\":\"abc\"}]".to_owned()));
    let manager = manager(&fake.host);
    assert_eq!(manager.services_named("d&b").unwrap(), [json!({"ID": "abc"})]);
    assert_eq!(manager.tasks_named("db.").unwrap().len(), 1);
    let filter = "%7B%22name%22%3A%5B%22";
    assert_eq!(
        fake.asked(),
        [
            format!("/services?filters={filter}d%26b%22%5D%7D"),
            format!("/tasks?filters={filter}db.%22%5D%7D"),
        ]
    );
}

#[test]
fn a_refusal_has_its_status_and_words() {
    let fake = Fake::unix(|path| match path {
        "/services/create" => {
            Answer::Status(409, r#"{"message":"name conflicts\u001b"}"#.to_owned())
        }
        "/nodes" => Answer::Json("{}".to_owned()),
        _ => Answer::Raw(Vec::new()),
    });
    let manager = manager(&fake.host);
    let error = manager.create_service(&json!({})).unwrap_err();
    assert_eq!(error.status(), Some(409));
    assert_eq!(
        error.to_string(),
        r"POST /services/create: the Engine says 409: name conflicts\u{1b}"
    );
    let error = manager.nodes().unwrap_err();
    assert!(error.to_string().contains("not a list"), "{error}");
    let error = manager.info().unwrap_err();
    assert!(matches!(error, CallError::Engine { .. }), "{error}");
}

#[test]
fn an_engine_that_is_not_there_or_silent_is_said() {
    let error = manager("unix:///nowhere").services().unwrap_err().to_string();
    assert!(error.contains("GET /services: no Docker Engine at unix:///nowhere"), "{error}");
    let fake = Fake::unix(|_| Answer::Silence);
    let timeout = Duration::from_millis(300);
    let options = Options { host: Some(fake.host.clone()), tls: false, timeout };
    let error = Manager::new(&options).unwrap().info().unwrap_err().to_string();
    assert!(error.contains("did not answer within 300ms"), "{error}");
}
