//! Events: that something has changed.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use keepline_docker::{Options, follow_events};

use crate::fake::{Answer, Fake, free_path};

fn options(host: &str) -> Options {
    Options { host: Some(host.to_owned()), tls: false, timeout: Duration::from_secs(20) }
}

#[test]
fn each_crowd_of_events_is_told_once() {
    let path = free_path();
    let listener = UnixListener::bind(&path).unwrap();
    let (go, gone_on) = channel::<()>();
    let engine = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let crowds: [&[&str]; 2] = [&["{\"a\":1}\n", "{\"b\":2}\n"], &["{\"c\":3}\n"]];
        for crowd in crowds {
            gone_on.recv().unwrap();
            for event in crowd {
                write!(stream, "{:x}\r\n{event}\r\n", event.len()).unwrap();
            }
        }
        gone_on.recv().unwrap();
        request
    });
    let mut told = 0;
    // The first word is that the Engine listens; each answer lets it go on.
    follow_events(&options(&format!("unix://{}", path.display())), || {
        told += 1;
        go.send(()).is_ok()
    })
    .unwrap();
    assert_eq!(told, 3, "listening, two crowds; and the end of the connection is an end");
    let request = engine.join().unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(request.starts_with("GET /events?filters=%7B%22type%22"), "{request}");
    assert!(!request.contains(' ') || request.matches(' ').count() == 2, "{request}");
}

#[test]
fn who_listens_may_stop() {
    let raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n";
    let fake = Fake::unix(|_| Answer::Raw(raw.as_bytes().to_vec()));
    let mut told = 0;
    follow_events(&options(&fake.host), || {
        told += 1;
        false
    })
    .unwrap();
    assert_eq!(told, 1);
}

#[test]
fn an_engine_that_refuses_says_so() {
    let fake = Fake::unix(|_| Answer::Status(500, r#"{"message":"no events today"}"#.to_owned()));
    let error = follow_events(&options(&fake.host), || panic!("nothing was heard")).unwrap_err();
    assert!(error.to_string().contains("no events today"), "{error}");
    let error = follow_events(&options("unix:///nonexistent"), || true).unwrap_err();
    assert!(error.to_string().starts_with("no Docker Engine at"), "{error}");
}
