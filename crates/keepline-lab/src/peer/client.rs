//! The idle client: opens sessions, uses each once, and then leaves them alone until told.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::sockopt;

use super::{Answer, IdleArgs, OTHER_FILES, WriteSummary, allow_open_files, say};
use crate::error::{LabError, io_error};
use crate::units::{Keepalive, PortRange};

/// How long a connection may take to be made.
pub(super) const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take before the session counts as hanging.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// What a client writes, and the backend sends back.
pub(super) const MESSAGE: &[u8] = b"message\n";

struct Session {
    stream: TcpStream,
    /// Bytes written for which the echo has not come.
    owed: usize,
}

/// What became of one write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Survived,
    Reset,
    TimedOut,
    Closed,
}

/// Connects, prints one line that begins with `connected`, and obeys until told to quit.
pub(super) fn run(args: &IdleArgs) -> Result<(), LabError> {
    let wanted = u64::from(args.sessions) + OTHER_FILES;
    let allowed = allow_open_files(wanted);
    if allowed < wanted {
        return Err(LabError::Invalid(format!(
            "{wanted} open files are more than {allowed}, the limit"
        )));
    }
    // Before the sessions: whoever waits for the line may command at once.
    let listener = match &args.control {
        Some(path) => Some(
            UnixListener::bind(path)
                .map_err(io_error(format!("take commands on {}", path.display())))?,
        ),
        None => None,
    };
    let start = Instant::now();
    let mut sessions = Vec::with_capacity(args.sessions as usize);
    for address in addresses(args.to.into(), args.ports).take(args.sessions as usize) {
        sessions.push(Session { stream: connect(address, args.keepalive)?, owed: 0 });
    }
    let local = sessions.first().and_then(|session| session.stream.local_addr().ok());
    let summary = exchange(&mut sessions)?;
    if summary.lost() != 0 {
        let message = format!("the first message: {summary}");
        return Err(LabError::Peer { peer: args.name.clone(), message });
    }
    let local = local.map_or(String::new(), |local| format!(" from {local}"));
    say(format_args!(
        "connected {} sessions{local} to {}:{} in {:.2} s",
        args.sessions,
        args.to,
        args.ports,
        start.elapsed().as_secs_f64()
    ))?;
    match listener {
        Some(listener) => obey_socket(&listener, &mut sessions),
        None => obey_stdin(&mut sessions),
    }
}

/// The address with each port in turn, for ever.
pub(super) fn addresses(
    to: std::net::IpAddr,
    ports: PortRange,
) -> impl Iterator<Item = SocketAddr> {
    ports.ports().cycle().map(move |port| SocketAddr::new(to, port))
}

/// Opens one session.
pub(super) fn connect(
    address: SocketAddr,
    keepalive: Option<Keepalive>,
) -> Result<TcpStream, LabError> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_PATIENCE)
        .map_err(io_error(format!("connect to {address}")))?;
    if let Some(keepalive) = keepalive {
        set_keepalive(&stream, keepalive)
            .map_err(io_error(format!("set keepalive {keepalive}")))?;
    }
    Ok(stream)
}

fn set_keepalive(stream: &TcpStream, keepalive: Keepalive) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, keepalive.idle)?;
    sockopt::set_tcp_keepintvl(stream, keepalive.interval)?;
    sockopt::set_tcp_keepcnt(stream, keepalive.count)?;
    sockopt::set_socket_keepalive(stream, true)
}

fn obey_socket(listener: &UnixListener, sessions: &mut Vec<Session>) -> Result<(), LabError> {
    loop {
        let (stream, _) = listener.accept().map_err(io_error("accept a command"))?;
        // One who connects and says nothing must not keep the others waiting for ever.
        let _ = stream.set_read_timeout(Some(ANSWER_PATIENCE));
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            continue;
        }
        let answer = obey(&line, sessions)?;
        let text = serde_json::to_string(&answer)
            .map_err(|error| io_error("write the answer")(io::Error::from(error)))?;
        // Whoever asked may be gone; the sessions stay.
        let _ = writeln!(&stream, "{text}");
        if answer == Answer::Quitting {
            return Ok(());
        }
    }
}

fn obey_stdin(sessions: &mut Vec<Session>) -> Result<(), LabError> {
    for line in io::stdin().lines() {
        let answer = obey(&line.map_err(io_error("read a command"))?, sessions)?;
        say(format_args!("{answer}"))?;
        if answer == Answer::Quitting {
            break;
        }
    }
    Ok(())
}

fn obey(line: &str, sessions: &mut Vec<Session>) -> Result<Answer, LabError> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(match words[..] {
        ["write"] => Answer::Written(exchange(sessions)?),
        ["close", count] if count.parse::<u32>().is_ok() => {
            let count = count.parse().unwrap_or(usize::MAX).min(sessions.len());
            sessions.drain(..count);
            Answer::Closed { closed: to_u32(count), open: to_u32(sessions.len()) }
        }
        ["quit"] => Answer::Quitting,
        _ => Answer::NotUnderstood("write, close N, quit".to_owned()),
    })
}

/// Writes on every session and waits for the answers. Sessions that are over are dropped, as any
/// application would; those that hang stay, since an application would still be waiting.
fn exchange(sessions: &mut Vec<Session>) -> Result<WriteSummary, LabError> {
    let start = Instant::now();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io_error("epoll_create"))?;
    let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(sessions.len());
    for (index, session) in sessions.iter_mut().enumerate() {
        outcomes.push(write(session));
        if outcomes[index].is_none() {
            let token = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &session.stream, token, epoll::EventFlags::IN)
                .map_err(io_error("epoll_ctl"))?;
        }
    }
    let mut open = outcomes.iter().filter(|outcome| outcome.is_none()).count();
    let deadline = Instant::now() + ANSWER_PATIENCE;
    let mut events = Vec::with_capacity(1024);
    while open > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io_error("epoll_wait")(error)),
        }
        for event in &events {
            let Ok(index) = usize::try_from(event.data.u64()) else { continue };
            let (Some(session), Some(slot)) = (sessions.get_mut(index), outcomes.get_mut(index))
            else {
                continue;
            };
            if let Some(outcome) = read(session) {
                *slot = Some(outcome);
                open -= 1;
                epoll::delete(&epoll, session.stream.as_fd()).map_err(io_error("epoll_ctl"))?;
            }
        }
    }
    let mut summary =
        WriteSummary { seconds: start.elapsed().as_secs_f64(), ..WriteSummary::default() };
    for outcome in &outcomes {
        match outcome {
            Some(Outcome::Survived) => summary.survived += 1,
            Some(Outcome::Reset) => summary.reset += 1,
            Some(Outcome::Closed) => summary.closed += 1,
            Some(Outcome::TimedOut) | None => summary.timed_out += 1,
        }
    }
    let mut fates = outcomes.iter();
    sessions.retain(|_| matches!(fates.next(), Some(Some(Outcome::Survived) | None)));
    Ok(summary)
}

fn write(session: &mut Session) -> Option<Outcome> {
    if let Err(error) = session.stream.set_nonblocking(true) {
        return Some(outcome_of(&error));
    }
    match session.stream.write(MESSAGE) {
        Ok(written) => {
            session.owed += written;
            None
        }
        // The buffer of a session that hangs is full: wait for what is owed.
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => Some(outcome_of(&error)),
    }
}

fn read(session: &mut Session) -> Option<Outcome> {
    let mut buffer = [0; 4096];
    match session.stream.read(&mut buffer) {
        Ok(0) => Some(Outcome::Closed),
        Ok(length) => {
            session.owed = session.owed.saturating_sub(length);
            (session.owed == 0).then_some(Outcome::Survived)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            None
        }
        Err(error) => Some(outcome_of(&error)),
    }
}

fn outcome_of(error: &io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            Outcome::Reset
        }
        _ => Outcome::TimedOut,
    }
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Sessions over loopback, and their other ends.
    fn pairs(count: usize) -> (Vec<Session>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (0..count)
            .map(|_| {
                let stream = connect(address, None).unwrap();
                (Session { stream, owed: 0 }, listener.accept().unwrap().0)
            })
            .unzip()
    }

    #[test]
    fn a_write_tells_the_living_from_the_reset_and_the_closed() {
        let (mut sessions, mut others) = pairs(3);
        // Reset: closing with unread data in the buffer does it.
        sessions[2].stream.write_all(b"unread").unwrap();
        others[2].peek(&mut [0; 8]).unwrap();
        drop(others.pop());
        // Closed: an end that will not read but has said goodbye.
        others[1].shutdown(std::net::Shutdown::Write).unwrap();
        // Alive.
        let mut echo = others[0].try_clone().unwrap();
        let server = std::thread::spawn(move || {
            let mut buffer = [0; MESSAGE.len()];
            echo.read_exact(&mut buffer).unwrap();
            echo.write_all(&buffer).unwrap();
        });
        let answer = obey("write\n", &mut sessions).unwrap();
        server.join().unwrap();
        assert_eq!(answer.to_string(), "survived 1 lost 2 (reset 1, timed out 0, closed 1)");
        assert_eq!(sessions.len(), 1, "the lost are dropped");
    }

    #[test]
    fn commands() {
        let (mut sessions, _others) = pairs(3);
        assert_eq!(obey("close 2", &mut sessions).unwrap(), Answer::Closed { closed: 2, open: 1 });
        assert_eq!(obey("close 9", &mut sessions).unwrap(), Answer::Closed { closed: 1, open: 0 });
        assert_eq!(obey(" quit ", &mut sessions).unwrap(), Answer::Quitting);
        for nonsense in ["", "close", "close x", "write 2"] {
            let answer = obey(nonsense, &mut sessions).unwrap();
            assert!(matches!(answer, Answer::NotUnderstood(_)), "{nonsense}");
        }
    }

    #[test]
    fn sessions_take_the_ports_in_turn() {
        let ports = PortRange { first: 7000, last: 7001 };
        let taken: Vec<u16> = addresses("10.0.0.1".parse().unwrap(), ports)
            .take(3)
            .map(|address| address.port())
            .collect();
        assert_eq!(taken, [7000, 7001, 7000]);
    }
}
