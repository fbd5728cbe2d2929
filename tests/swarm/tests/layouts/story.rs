//! One layout from its set-up to its removal. Everything that Keepline and the tools say on
//! the way is written down; the tests compare it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use keepline_swarm_tests::{Error, Guest, Guests};
use serde_json::Value;

/// Sessions that the lab opens and that then fall silent.
pub const SILENT: usize = 6;
/// Sessions opened after those are forgotten, so that both kinds stand side by side.
pub const FRESH: usize = 2;
/// The lifetime of an established entry, in seconds: long enough to look twice on a slow guest.
pub const TIMEOUT: f64 = 20.0;

/// Outputs by name, as the scripts below give them.
#[derive(Debug)]
pub struct Moment(BTreeMap<String, String>);

impl Moment {
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no output {name}: {:?}", self.0.keys()))
    }

    /// What one of the field's tools said; that it failed would make any comparison void.
    pub fn tool(&self, name: &str) -> &str {
        assert_eq!(self.status(name), 0, "{name}: {}", self.text(&format!("{name}.err")));
        self.text(name)
    }

    pub fn json(&self, name: &str) -> Value {
        let text = self.text(name);
        serde_json::from_str(text).unwrap_or_else(|error| {
            panic!("{name} is no JSON ({error}): {text}{}", self.text(&format!("{name}.err")))
        })
    }

    pub fn status(&self, name: &str) -> i32 {
        self.text(&format!("{name}.status")).trim().parse().expect("a status")
    }
}

#[derive(Debug)]
pub struct Story {
    /// What `lab up -o json` said.
    pub lab: Value,
    /// While all silent sessions are remembered.
    pub before: Moment,
    /// When they are forgotten, with fresh ones beside them.
    pub after: Moment,
    /// What `lab write -o json` said.
    pub write: Value,
    /// Namespaces and processes of the lab that are left after `lab down`.
    pub left: String,
}

/// A part of the machine's words in every script: `keep NAME COMMAND…` notes what a command says.
const KEEP: &str = r#"
export PATH=/payload:$PATH
rm -rf /run/moment; mkdir /run/moment; cd /run/moment
keep() { local name=$1; shift; "$@" >"$name" 2>"$name.err"; echo $? >"$name.status"; }
in_ns() { local name=$1; shift; nsenter --net="/run/netns/$name" "$@"; }
"#;

/// Gives all notes as one JSON object.
const TELL: &str = r#"
exec python3 -c 'import json, os
print(json.dumps({name: open(name, errors="replace").read() for name in os.listdir(".")}))'
"#;

/// The tools before and after Keepline: its numbers must lie between theirs.
const LOOK: &str = r#"
keep ipvs.before in_ns $director ipvsadm -Lnc
keep conntrack.before in_ns $director conntrack -L -p tcp
keep capture.run keepline capture capture
keep check keepline check -o json --netns $client
keep ipvs.after in_ns $director ipvsadm -Lnc
keep conntrack.after in_ns $director conntrack -L -p tcp
keep timeouts keepline timeouts -o json
keep ipvs.timeouts in_ns $director ipvsadm -L --timeout
keep conntrack.timeouts in_ns $director sysctl -n net.netfilter.nf_conntrack_tcp_timeout_{established,fin_wait,close_wait}
for ns in $namespaces; do
  keep $ns.sockets in_ns $ns ss -Htn state established state close-wait state fin-wait-2
  keep $ns.services in_ns $ns ipvsadm -Sn
  keep $ns.conntrack in_ns $ns conntrack -L -p tcp
done
"#;

/// The pipeline of Docker's article, run where it says: inside the client's namespace.
const ARTICLE: &str = r#"
cat >/run/article <<'END'
comm -23 <(ss -nt state established | awk 'NR>1{print $3,$4}' | sort) \
         <(conntrack -L -p tcp --state ESTABLISHED 2>/dev/null | awk '{split($5,s,"=");split($6,d,"=");split($7,sp,"=");split($8,dp,"=");print s[2]":"sp[2],d[2]":"dp[2]}' | sort)
END
keep article in_ns $client bash /run/article
"#;

/// Waits until the director remembers no silent session any more, by its tools' word, then
/// opens fresh ones from the same client.
const SILENCE: &str = r#"
for try in $(seq 120); do
  forgotten=yes
  for memory in "ipvsadm -Lnc" "conntrack -L -p tcp"; do
    [ $memory_of_director = "${memory%% *}" ] || continue
    in_ns $director $memory 2>/dev/null | grep -q ESTABLISHED && forgotten=no
  done
  [ $forgotten = yes ] && break; sleep 0.5
done
[ $forgotten = yes ] || { echo "the sessions are not forgotten" >&2; exit 1; }
cat >/run/fresh.py <<'END'
import socket, sys, time
kept = []
for _ in range(int(sys.argv[3])):
    sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
    sock.sendall(b"hello\n")
    assert sock.recv(64)
    kept.append(sock)
print("connected", flush=True)
time.sleep(300)
END
(exec nsenter --net=/run/netns/$client python3 /run/fresh.py $vip $port $fresh) \
  >/run/fresh.out 2>/run/fresh.err &
echo $! >/run/fresh.pid
for try in $(seq 100); do grep -q connected /run/fresh.out && break; sleep 0.1; done
grep -q connected /run/fresh.out || { cat /run/fresh.err >&2; exit 1; }
"#;

impl Story {
    /// Plays the layout in the guest, once in this process.
    ///
    /// # Panics
    /// It could not be played; every test that asks says why.
    pub fn of(layout: &str) -> &'static Self {
        static STORIES: [OnceLock<Result<Story, String>>; 4] = [const { OnceLock::new() }; 4];
        let index = ["swarm", "classic", "ingress", "nat"].iter().position(|name| *name == layout);
        let story = &STORIES[index.expect("a layout")];
        story
            .get_or_init(|| {
                let guest = guest()?;
                let told = Self::play(guest, layout);
                if told.is_err() {
                    // The next layout must not find this one's remains.
                    let _ = guest.sh("/payload/keepline lab down --all");
                }
                told.map_err(|error| error.to_string())
            })
            .as_ref()
            .unwrap_or_else(|error| panic!("layout {layout}: {error}"))
    }

    fn play(guest: &Guest, layout: &str) -> Result<Self, Error> {
        let up = guest.ok(&format!(
            "/payload/keepline lab up {layout} --name {layout} --sessions {SILENT} \
             --tcp-timeout {TIMEOUT}s -o json"
        ))?;
        let lab: Value = serde_json::from_str(&up).unwrap_or_else(|error| panic!("{error}: {up}"));
        let name = |key: &str| lab[key].as_str().unwrap_or_else(|| panic!("no {key}: {lab}"));
        let namespaces: Vec<&str> =
            lab["namespaces"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let names = format!(
            "{KEEP} client={} director={} vip={} port={} fresh={FRESH} namespaces={:?}\n\
             memory_of_director={}\n",
            name("client_netns"),
            name("director_netns"),
            name("vip"),
            lab["port"],
            namespaces.join(" "),
            if layout == "nat" { "conntrack" } else { "ipvsadm" },
        );
        let moment = |script: String| -> Result<Moment, Error> {
            let text = guest.ok(&format!("{names}{script}{TELL}"))?;
            let map = serde_json::from_str(&text);
            Ok(Moment(map.unwrap_or_else(|error| panic!("{error}: {text}"))))
        };
        let before = moment(LOOK.into())?;
        let after = moment(format!("{SILENCE}{ARTICLE}{LOOK}"))?;
        let write = guest.ok(&format!("/payload/keepline lab write --name {layout} -o json"))?;
        let left = guest.ok(&format!(
            "kill $(cat /run/fresh.pid); /payload/keepline lab down --name {layout} >&2
             for try in $(seq 20); do pgrep fresh.py -f >/dev/null || break; sleep 0.1; done
             ls -A /run/netns; lsns -t net -n -o PID,COMMAND | grep -v '^ *1 '; true"
        ))?;
        let write = serde_json::from_str(&write).unwrap_or_else(|error| panic!("{error}: {write}"));
        Ok(Self { lab, before, after, write, left })
    }

    pub fn lab_name(&self, key: &str) -> &str {
        self.lab[key].as_str().unwrap_or_else(|| panic!("no {key}: {}", self.lab))
    }
}

/// The guest for all tests of this process, with the release binary as its payload.
pub fn guest() -> Result<&'static Guest, String> {
    static GUESTS: OnceLock<Result<Guests, String>> = OnceLock::new();
    let boot = || -> Result<Guests, String> {
        let binary = std::env::var_os("KEEPLINE_BIN")
            .map(PathBuf::from)
            .ok_or("KEEPLINE_BIN names no release binary: `make test` builds one and sets it")?;
        let payload = tempfile::tempdir().map_err(|error| error.to_string())?;
        std::fs::copy(&binary, payload.path().join("keepline"))
            .map_err(|error| format!("KEEPLINE_BIN={}: {error}", binary.display()))?;
        Guests::boot(1, Some(payload.path())).map_err(|error| error.to_string())
    };
    let guests = GUESTS.get_or_init(boot).as_ref().map_err(Clone::clone)?;
    let guest = guests.node(1);
    // A daemon of the guest could be in the way of the first seconds' numbers.
    guest
        .ok_within("/payload/keepline --version", Duration::from_secs(30))
        .map_err(|error| error.to_string())?;
    Ok(guest)
}
