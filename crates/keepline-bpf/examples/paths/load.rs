//! What is measured with: a server, and a client that is told on its stdin what to do.
//!
//! As plain as can be, with threads that block: what is compared is the way between, and both ends
//! are the same on every way.

use std::{
    io::{self, BufRead, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

/// Bytes of a request, and of its answer.
const REQUEST: usize = 64;
/// What one write of the bulk carries.
const CHUNK: usize = 256 << 10;
/// Connections that are kept at a time, at most.
const SERVED: usize = 16;

/// What is done to a way, each for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connect, one request, close: one after the other.
    Connects,
    /// Requests on one connection: nothing waits for anything else.
    One,
    /// Requests on eight connections at a time.
    Many,
    /// Bytes in one direction.
    Bulk,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Connects, Self::One, Self::Many, Self::Bulk];

    fn word(self) -> &'static str {
        match self {
            Self::Connects => "connects",
            Self::One => "one",
            Self::Many => "many",
            Self::Bulk => "bulk",
        }
    }

    /// The line that tells a client to do it.
    pub fn order(self, host: &str, time: Duration) -> String {
        let port = if self == Self::Bulk { 7001 } else { 7000 };
        format!("{} {host}:{port} {}", self.word(), time.as_millis())
    }
}

/// What a client has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    /// Connections, requests or bytes.
    pub count: u64,
    /// In which time.
    pub time: Duration,
    /// How long one connect() or request took: half of them less.
    pub median: Duration,
    /// 99 of 100 less.
    pub p99: Duration,
}

impl Done {
    fn of(mut samples: Vec<Duration>, time: Duration) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| {
            let index = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
            samples.get(index).copied().unwrap_or_default()
        };
        Self { count: samples.len() as u64, time, median: at(50), p99: at(99) }
    }

    fn line(&self) -> String {
        let [time, median, p99] = [self.time, self.median, self.p99].map(|time| time.as_nanos());
        format!("{} {time} {median} {p99}", self.count)
    }

    /// From the line that a client answers with.
    pub fn parse(line: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok([count, time, median, p99]) => {
                let [time, median, p99] = [time, median, p99].map(|it| Duration::from_nanos(*it));
                Ok(Self { count: *count, time, median, p99 })
            }
            _ => Err(format!("a client said: {line}")),
        }
    }

    /// So many a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }
}

/// Answers on ports 7000 (every request) and 7001 (how much came) until it is killed.
pub fn serve(host: &str) -> io::Result<()> {
    let requests = Arc::new(TcpListener::bind(format!("{host}:7000"))?);
    let bulk = Arc::new(TcpListener::bind(format!("{host}:7001"))?);
    println!("ready");
    for number in 0..SERVED + 2 {
        let (requests, bulk) = (Arc::clone(&requests), Arc::clone(&bulk));
        thread::spawn(move || {
            loop {
                // A client that has reset its connection is as good as one that closed it.
                let _ = if number < SERVED { echo(&requests) } else { swallow(&bulk) };
            }
        });
    }
    loop {
        thread::park();
    }
}

fn echo(listener: &TcpListener) -> io::Result<()> {
    let (mut peer, _) = listener.accept()?;
    peer.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    loop {
        peer.read_exact(&mut request)?;
        peer.write_all(&request)?;
    }
}

fn swallow(listener: &TcpListener) -> io::Result<()> {
    let (mut peer, _) = listener.accept()?;
    let mut chunk = vec![0; CHUNK];
    let mut total = 0_u64;
    loop {
        match peer.read(&mut chunk)? {
            0 => return peer.write_all(&total.to_ne_bytes()),
            length => total += length as u64,
        }
    }
}

/// Does what it is told, line by line, each answered with one.
pub fn client() -> io::Result<()> {
    println!("ready");
    for line in io::stdin().lock().lines() {
        match answer(&line?) {
            Ok(done) => println!("{}", done.line()),
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}

fn answer(line: &str) -> Result<Done, Box<dyn std::error::Error>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, host, millis] = words[..] else { return Err("three words are needed".into()) };
    let (host, time) = (host.parse()?, Duration::from_millis(millis.parse()?));
    Ok(match kind {
        "connects" => connects(host, time)?,
        "one" => requests(host, time, 1)?,
        "many" => requests(host, time, 8)?,
        "bulk" => bulk(host, time)?,
        _ => return Err("unknown".into()),
    })
}

fn connects(host: SocketAddr, time: Duration) -> io::Result<Done> {
    let mut samples = Vec::with_capacity(1 << 16);
    let mut bytes = [0; REQUEST];
    let begun = Instant::now();
    while begun.elapsed() < time {
        let start = Instant::now();
        let mut stream = TcpStream::connect(host)?;
        samples.push(start.elapsed());
        // A proxy has connected to itself by now: the answer comes from the backend.
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        // A reset instead of TIME_WAIT: ports must not run out.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    Ok(Done::of(samples, begun.elapsed()))
}

fn requests(host: SocketAddr, time: Duration, connections: usize) -> io::Result<Done> {
    let barrier = Arc::new(Barrier::new(connections + 1));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || {
                let stream = TcpStream::connect(host);
                barrier.wait();
                exchange(stream?, time)
            })
        })
        .collect();
    barrier.wait();
    let begun = Instant::now();
    let mut samples = Vec::new();
    for thread in threads {
        samples.append(&mut thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
    }
    Ok(Done::of(samples, begun.elapsed()))
}

fn exchange(mut stream: TcpStream, time: Duration) -> io::Result<Vec<Duration>> {
    stream.set_nodelay(true)?;
    let mut samples = Vec::with_capacity(1 << 16);
    let mut bytes = [0; REQUEST];
    let begun = Instant::now();
    while begun.elapsed() < time {
        let start = Instant::now();
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        samples.push(start.elapsed());
    }
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(samples)
}

fn bulk(host: SocketAddr, time: Duration) -> io::Result<Done> {
    let mut stream = TcpStream::connect(host)?;
    let chunk = vec![0; CHUNK];
    let begun = Instant::now();
    while begun.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    Ok(Done { count: u64::from_ne_bytes(total), time: begun.elapsed(), ..Done::default() })
}
