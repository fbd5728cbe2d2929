//! The restless client: opens and closes sessions all the time, for whoever must not mistake a
//! session that just came or went for a forgotten one.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::client::{CONNECT_PATIENCE, MESSAGE, addresses, connect};
use super::{ChurnArgs, OTHER_FILES, allow_open_files, say};
use crate::error::LabError;

/// Churns; prints `connected` after the first session and a summary at the end.
pub(super) fn run(args: &ChurnArgs) -> Result<(), LabError> {
    // Where it is too few, sessions fail and are counted.
    allow_open_files(u64::from(args.parallel) + OTHER_FILES);
    let start = Instant::now();
    let mut open: VecDeque<TcpStream> = VecDeque::new();
    let (mut opened, mut failed) = (0_u64, 0_u64);
    for address in addresses(args.to.into(), args.ports) {
        if args.duration.is_some_and(|duration| start.elapsed() >= duration) {
            break;
        }
        if args.rate > 0 {
            let due = start
                + Duration::from_secs(1) * u32::try_from(opened + failed).unwrap_or(u32::MAX)
                    / args.rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        match connect(address, None).and_then(use_once) {
            Ok(stream) => {
                opened += 1;
                if opened == 1 {
                    say(format_args!("connected to {address}"))?;
                }
                open.push_back(stream);
            }
            // The very first failure is the lab's; later ones are counted.
            Err(error) if opened == 0 => return Err(error),
            Err(_) => failed += 1,
        }
        if open.len() > args.parallel as usize
            && let Some(oldest) = open.pop_front()
        {
            close(&oldest, opened);
        }
    }
    say(format_args!(
        "opened {opened} sessions in {:.1} s, {failed} failed",
        start.elapsed().as_secs_f64()
    ))
}

fn use_once(mut stream: TcpStream) -> Result<TcpStream, LabError> {
    let mut buffer = [0; MESSAGE.len()];
    stream
        .set_read_timeout(Some(CONNECT_PATIENCE))
        .and_then(|()| stream.write_all(MESSAGE))
        .and_then(|()| stream.read_exact(&mut buffer))
        .map_err(crate::error::io_error("exchange a message"))?;
    Ok(stream)
}

/// Prepares a session for being dropped: every other one ends with a reset instead of a farewell.
fn close(stream: &TcpStream, count: u64) {
    if count.is_multiple_of(2) {
        // Where it fails the session ends politely.
        let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    }
}
