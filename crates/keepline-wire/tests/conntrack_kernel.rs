//! ctnetlink against the running kernel: an entry is created, found, changed and deleted in a
//! network namespace of its own, where no rule and no traffic is needed for that.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/unshared.rs"]
mod unshared;

use std::time::Duration;

use keepline_wire::conntrack::{
    Direction, DumpFilter, Entry, NewEntry, Status, TcpConntrackState, Tuple, create, delete, dump,
    get, parse, set_timeout,
};
use keepline_wire::nl;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// What is printed where the kernel lacks something.
const UNABLE: &str = "kernel without";

#[test]
fn entries_live_and_die() {
    if !unshared::inside("entries_live_and_die", UNABLE) {
        return;
    }
    for (original, backend, peer) in [
        (["10.0.1.6:40001", "10.0.1.2:7000"], "10.0.1.4:7001", "10.0.1.9:40001"),
        (["[fd00::6]:40001", "[fd00::2]:7000"], "[fd00::4]:7001", "[fd00::9]:40001"),
    ] {
        let [source, destination] = original.map(|text| text.parse().unwrap());
        let original = Tuple { source, destination, protocol: 6 };
        let new = NewEntry {
            original,
            destination_nat: Some(backend.parse().unwrap()),
            source_nat: Some(peer.parse().unwrap()),
            timeout: Duration::from_secs(600),
            mark: 5,
            zone: 0,
            tcp_state: TcpConntrackState::Established,
        };
        // No netlink for netfilter, or nobody there who knows of conntrack (nfnetlink_rcv_msg()).
        if let Err(Errno::PROTONOSUPPORT | Errno::INVAL) = found(&original, Direction::Original) {
            println!("{UNABLE} ctnetlink");
            return;
        }
        match ask(&create(&new, 1)) {
            Err(Errno::OPNOTSUPP) => {
                println!("{UNABLE} nf_nat");
                return;
            }
            result => assert_eq!(result, Ok(vec![])),
        }
        assert_eq!(ask(&create(&new, 2)), Err(Errno::EXIST));

        let entry = found(&original, Direction::Original).unwrap();
        let reply = Tuple {
            source: backend.parse().unwrap(),
            destination: peer.parse().unwrap(),
            protocol: 6,
        };
        assert_eq!((entry.original, entry.reply, entry.mark), (original, reply, 5));
        assert!(entry.status.all(Status::SRC_NAT | Status::DST_NAT | Status::ASSURED));
        assert_eq!(entry.tcp_state, Some(TcpConntrackState::Established));
        assert!((595..=600).contains(&entry.timeout.unwrap().as_secs()), "{entry:?}");
        assert_eq!(found(&reply, Direction::Reply).unwrap().id, entry.id);

        assert_eq!(ask(&set_timeout(&original, Duration::from_secs(3000), 3)), Ok(vec![]));
        let left = found(&original, Direction::Original).unwrap().timeout.unwrap();
        assert!((2995..=3000).contains(&left.as_secs()), "{left:?}");

        // The filter asks for this entry, and for none.
        let family = if source.is_ipv4() { 2 } else { 10 };
        let wanted = DumpFilter {
            family: Some(family),
            protocol: Some(6),
            mark: Some((5, 0xff)),
            status: Some((Status::DST_NAT, Status::DST_NAT)),
        };
        let entries = dumped(&wanted);
        assert_eq!(entries.iter().filter(|entry| wanted.matches(entry)).count(), 1);
        let unwanted = DumpFilter { mark: Some((6, 0xff)), ..wanted };
        assert!(!dumped(&unwanted).iter().any(|entry| unwanted.matches(entry)));

        let id = entry.id.unwrap();
        assert_eq!(ask(&delete(&original, Some(id ^ 1), 4)), Err(Errno::NOENT));
        assert_eq!(ask(&delete(&original, Some(id), 5)), Ok(vec![]));
        assert_eq!(found(&original, Direction::Original), Err(Errno::NOENT));
        assert_eq!(ask(&set_timeout(&original, Duration::from_secs(9), 6)), Err(Errno::NOENT));
    }
}

fn found(tuple: &Tuple, direction: Direction) -> Result<Entry, Errno> {
    ask(&get(tuple, direction, None, 7)).map(|answers| parse(&answers[0]).unwrap())
}

fn dumped(filter: &DumpFilter) -> Vec<Entry> {
    ask(&dump(filter, 8)).unwrap().iter().map(|answer| parse(answer).unwrap()).collect()
}

/// The payloads of the answers; none where there is only an acknowledgement.
fn ask(request: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    send(&socket, request, SendFlags::empty())?;
    let mut buffer = vec![0; 1 << 16];
    let mut answers = Vec::new();
    loop {
        let (len, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
        for message in nl::messages(&buffer[..len]) {
            let message = message.unwrap();
            match message.status().unwrap() {
                Some(status) if status.errno != 0 => {
                    return Err(Errno::from_raw_os_error(status.errno));
                }
                Some(_) => return Ok(answers),
                None => answers.push(message.payload.to_vec()),
            }
        }
        // An exact query has one answer, and no acknowledgement.
        if request[5] == 1 && request[4] == 1 && request[7] == 0 {
            return Ok(answers);
        }
    }
}
