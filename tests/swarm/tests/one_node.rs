//! A Swarm of one node: director, client and all backends in one kernel. Sessions that are silent for
//! longer than their director remembers, without Keepline and under each of the kernel's two cures.

use std::{fs, time::Duration};

use keepline_swarm_tests::{Guests, skip};

/// For the whole story; a tenth of it on a machine with hardware virtualisation.
const PATIENCE: Duration = Duration::from_secs(900);

/// Set before the others: the functions that scenarios use, too.
const HEAD: &str = include_str!("scenarios/guest.sh");

/// The Engine's part.
const SERVICES: &str = r#"
set -eu
docker network create -d overlay net1 >/dev/null
service() {
  docker service create -q --detach --no-resolve-image --stop-grace-period 1s --network net1 \
    --name "$@" peer python3 /peer.py serve 7000 >/dev/null
}
service app
service db --replicas 2
wait_for all_run 2 '["app","db"]'
"#;

/// Prints `name: survived` or `name: lost WHY` for a session of each part.
const STORY: &str = r#"
set -eu
director=lb_$(docker network inspect --format '{{.Id}}' net1 | cut -c1-9)
there() { nsenter --net=/var/run/docker/netns/$director "$@"; }
remembered() { there ipvsadm -Lnc | grep ESTABLISHED; }
tell() { echo "$1: $(tail -n 1 said)"; }

# open NAME: a client that has exchanged one line; its directory becomes the current one.
open() {
  mkdir -p "/run/sessions/$1"; cd "/run/sessions/$1"; mkfifo orders
  { inside app python3 -c "$(cat /payload/session.py)" db 7000 <>orders >said 2>&1; } &
  wait_for grep -q . said
  grep -q ^connected said || { cat said; exit 1; }
}
write() { echo write >orders; wait_for awk 'END { exit NR < 2 }' said; tell "$1"; echo close >orders; }

open before
echo close >orders
there ipvsadm --set 6 5 0
open without
silence() { sleep 20; }
silence
! remembered || { echo "the director forgets nothing"; exit 1; }
write without

# Status 1: the backend's end of what was lost is still there, and refused.
keepline apply keepalive --idle 2s --interval 1s --service db --yes >&2 || [ $? = 1 ]
open keepalive
silence
write keepalive
keepline undo --yes >&2

keepline apply direct --service db --once --yes >&2
open direct
! remembered | grep -q "$(awk '{ print $2 }' said)" || { echo "direct: through the director"; exit 1; }
silence
write direct
keepline undo --yes >&2
test ! -e /sys/fs/bpf/keepline
open afterwards
remembered | grep -q "$(awk '{ print $2 }' said)" || { echo "not through the director"; exit 1; }
"#;

#[test]
fn both_cures_keep_idle_sessions() {
    if skip("both_cures_keep_idle_sessions") {
        return;
    }
    let binary = std::env::var_os("KEEPLINE_BIN")
        .expect("KEEPLINE_BIN names no release binary: `make test` builds one and sets it");
    let payload = tempfile::tempdir().expect("a temporary directory");
    fs::copy(binary, payload.path().join("keepline")).expect("the binary");
    fs::write(payload.path().join("session.py"), include_str!("scenarios/session.py"))
        .expect("a script");
    let guests = Guests::prepared(1, Some(payload.path()), |guests| {
        guests.swarm()?;
        guests.node(1).ok_within(&format!("{HEAD}{SERVICES}"), PATIENCE).map(drop)
    })
    .expect("services");
    let output = guests.node(1).sh_within(&format!("{HEAD}{STORY}"), PATIENCE).expect("an end");
    assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
    let said: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        said,
        ["without: lost ConnectionResetError", "keepalive: survived", "direct: survived"],
        "{}",
        output.stderr
    );
}
