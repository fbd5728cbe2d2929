//! A tiny Engine on a socket: serves files, nonsense, or nothing.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keepline_core::snapshot::Topology;
use keepline_docker::{DockerError, Options};
use serde_json::Value;

/// What the fake does with one request.
#[derive(Clone)]
pub enum Answer {
    /// An ordinary answer.
    Json(String),
    /// An answer with this status.
    Status(u16, String),
    /// In pieces, as the real Engine sends long answers.
    Chunked(String),
    /// Exactly these bytes, then the end.
    Raw(Vec<u8>),
    /// Nothing, with the connection open.
    Silence,
}

/// Not there, in the Engine's words.
pub fn not_found() -> Answer {
    Answer::Status(404, r#"{"message":"No such thing"}"#.to_owned())
}

struct Shared {
    answer: Box<dyn Fn(&str) -> Answer + Send + Sync>,
    asked: Mutex<Vec<String>>,
    sent: Mutex<Vec<String>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A running fake. Its threads end with the test's process.
pub struct Fake {
    shared: Arc<Shared>,
    pub host: String,
    socket: Option<PathBuf>,
}

impl Fake {
    pub fn unix(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let socket = free_path();
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = shared(answer);
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || serving.serve(stream.try_clone().unwrap(), stream));
            }
        });
        Self { shared, host: format!("unix://{}", socket.display()), socket: Some(socket) }
    }

    pub fn tcp(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("tcp://{}", listener.local_addr().unwrap());
        let shared = shared(answer);
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || serving.serve(stream.try_clone().unwrap(), stream));
            }
        });
        Self { shared, host, socket: None }
    }

    /// Asks the fake, with the real client.
    pub fn ask(&self, timeout: Duration) -> Result<Topology, DockerError> {
        ask(&self.host, timeout)
    }

    /// Paths asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Requests that are more than a GET: method, path and body.
    pub fn sent(&self) -> Vec<String> {
        self.shared.sent.lock().unwrap().clone()
    }

    /// Most requests that were open at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            std::fs::remove_file(socket).unwrap();
        }
    }
}

/// Asks whoever listens at `host`.
pub fn ask(host: &str, timeout: Duration) -> Result<Topology, DockerError> {
    keepline_docker::topology(&Options { host: Some(host.to_owned()), tls: false, timeout })
}

/// A path in the folder for temporary files that nobody else uses.
pub fn free_path() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!(
        "keepline-docker-test-{}-{}.sock",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    std::env::temp_dir().join(name)
}

fn shared(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Arc<Shared> {
    Arc::new(Shared {
        answer: Box::new(answer),
        asked: Mutex::new(Vec::new()),
        sent: Mutex::new(Vec::new()),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    })
}

impl Shared {
    fn serve(&self, input: impl Read, mut output: impl Write) {
        let mut input = BufReader::new(input);
        let mut lines = input.by_ref().lines().map_while(Result::ok);
        let Some(request) = lines.next() else { return };
        let mut words = request.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
        let mut length = 0;
        for line in lines.take_while(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body).unwrap();
        if method != "GET" {
            let body = String::from_utf8(body).unwrap();
            self.sent.lock().unwrap().push(format!("{method} {path} {body}"));
        }
        self.asked.lock().unwrap().push(path.clone());
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let bytes = match (self.answer)(&path) {
            Answer::Json(body) => plain(200, &body),
            Answer::Status(status, body) => plain(status, &body),
            Answer::Chunked(body) => chunked(&body),
            Answer::Raw(bytes) => bytes,
            Answer::Silence => loop {
                std::thread::park();
            },
        };
        self.now.fetch_sub(1, Ordering::SeqCst);
        // The client may have given up.
        let _ = output.write_all(&bytes);
    }
}

fn plain(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Word\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in body.as_bytes().chunks(1000) {
        bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Answers by path, from the files of a folder in `tests/fixtures`: `containers.json` is
/// `/containers/json`, `container-*.json` and `network-*.json` are the full answers about
/// the objects whose id they have, the others are named as their path.
pub fn recorded(folder: &str) -> HashMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut answers = HashMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let body = std::fs::read_to_string(&file).unwrap();
        let id =
            || serde_json::from_str::<Value>(&body).unwrap()["Id"].as_str().unwrap().to_owned();
        let path = match file.file_stem().unwrap().to_str().unwrap() {
            "containers" => "/containers/json".to_owned(),
            name if name.starts_with("container-") => format!("/containers/{}/json", id()),
            name if name.starts_with("network-") => format!("/networks/{}?verbose=true", id()),
            name => format!("/{name}"),
        };
        answers.insert(path, body);
    }
    answers
}

/// An Engine that answers as recorded, but for what `change` says.
pub fn replay(
    folder: &str,
    change: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) -> Fake {
    let answers = recorded(folder);
    Fake::unix(move |path| {
        change(path).unwrap_or_else(|| {
            let path = if path.starts_with("/tasks?") { "/tasks" } else { path };
            answers.get(path).map_or_else(not_found, |body| Answer::Json(body.clone()))
        })
    })
}
