"""bench.py [guard|ipvs]. Called by scripts/bench, as root: sets the sessions up, times both ways, cleans up.
With `guard`: what the guard costs. With `ipvs`: of a director that has them in IPVS, as Swarm's.

Each way runs in the same conditions, alternating, and its best round counts. The pipeline is
the article's, as an operator would type it (docs/proof.md), with `ss` in the client's namespace
and `conntrack -L` in the director's, since the director is where this layout has its entries.
"""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

KEEPLINE = os.environ["KEEPLINE"]
SESSIONS, EMPTY, ROUNDS, DIRECTORS = (
    int(os.environ[name]) for name in ("SESSIONS", "EMPTY", "ROUNDS", "DIRECTORS"))
# The journal of this run is its own.
os.environ["KEEPLINE_RUN"] = f"/run/keepline-bench-{os.getpid()}"
LAB = f"b{os.getpid()}"


def ip(*words, **options):
    return subprocess.run(["ip", *words], check=True, **options)


LAYOUT = "swarm" if sys.argv[1:] == ["ipvs"] else "nat"


def pipeline(client, director):
    return (
        f"comm -23 <(ip netns exec {client} ss -nt state established"
        " | awk 'NR>1{print $3,$4}' | sort)"
        f" <(ip netns exec {director} conntrack -L -p tcp --state ESTABLISHED 2>/dev/null"
        " | awk '{split($5,s,\"=\");split($6,d,\"=\");split($7,sp,\"=\");split($8,dp,\"=\");"
        'print s[2]":"sp[2],d[2]":"dp[2]}\' | sort)'
    )


def timed(command):
    """Seconds and peak memory (MiB) of the largest process of a command."""
    reader, writer = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.execvp(command[0], command)
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        text = output.read()
    _, status, usage = os.wait4(child, 0)
    took = time.monotonic() - start
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 3):
        sys.exit(f"{command} exited {code}")
    return took, usage.ru_maxrss / 1024, text


def measure(client, director):
    ways = {
        "pipeline": ["bash", "-c", pipeline(client, director)],
        "keepline check": [KEEPLINE, "check", "--netns", client, "--horizon", "1s"],
        "keepline check -o json": [KEEPLINE, "check", "--netns", client, "-o", "json"],
    }
    best = {}
    for _ in range(ROUNDS):
        for name, command in ways.items():
            result = timed(command)
            if name not in best or result[0] < best[name][0]:
                best[name] = result
    seen = json.loads(best["keepline check -o json"][2])["summary"]
    if sum(seen.values()) < SESSIONS:
        sys.exit(f"keepline saw {seen}, the lab has {SESSIONS} sessions")
    return best


def show(title, best):
    print(f"\n{title}")
    reference = best["pipeline"][0]
    for name, (took, memory, _) in best.items():
        print(f"  {name:24} {took:7.3f} s  {memory:6.0f} MiB   {reference / took:5.1f} x")


def acts(client, director):
    """Entries renewed and made anew, beside the field's own tool where it can do the like."""
    quiet = ["--netns", client, "--yes"]
    flush = ["ip", "netns", "exec", director, "conntrack", "-F"]
    # No other program renews entries; listing them once is what the field's own tool takes.
    tool = ["ipvsadm", "-Lnc"] if LAYOUT == "swarm" else ["conntrack", "-L"]
    lists = f"{' '.join(tool)} (only lists)"
    ways = {
        lists: ["ip", "netns", "exec", director, *tool],
        "keepline apply hold": [KEEPLINE, "apply", "hold", "--once", "--for", "3h", *quiet],
    }
    print("\nentries renewed: looking, planning and acting")
    took = {name: timed(command)[0] for name, command in ways.items()}
    for name, seconds in took.items():
        print(f"  {name:26} {seconds:7.3f} s  {SESSIONS / seconds:9.0f} /s")
    print(f"  ratio {took[lists] / took['keepline apply hold']:.1f} x")
    if LAYOUT == "swarm":
        # Nothing empties an IPVS table at once.
        return
    subprocess.run(flush, check=True, stderr=subprocess.DEVNULL)
    seconds, memory, _ = timed([KEEPLINE, "heal", *quiet])
    print("entries made anew")
    print(f"  {'keepline heal':24} {seconds:7.3f} s  {SESSIONS / seconds:9.0f} /s  {memory:6.0f} MiB")


def lab_up(name, *options):
    subprocess.run([KEEPLINE, "lab", "up", "nat", "--name", name, *options], check=True,
                   stdout=subprocess.DEVNULL)


def lab_down(name):
    subprocess.run([KEEPLINE, "lab", "down", "--name", name], check=False,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def guard():
    """The processor time of a guard that holds 10,000 sessions in 100 namespaces."""
    number, sessions, warm, measured = 25, 400, 30, 120
    labs = [f"{LAB}g{lab}" for lab in range(number)]
    run = os.environ["KEEPLINE_RUN"]
    os.makedirs(run, exist_ok=True)
    config = f"{run}/config.toml"
    with open(config, "w") as file:
        file.write('[guard]\nlisten = "127.0.0.1:0"\n')
    running = None

    def ticks():
        with open(f"/proc/{running.pid}/stat") as file:
            words = file.read().rsplit(")", 1)[1].split()
        return int(words[11]) + int(words[12])

    try:
        print(f"setting up {number * sessions} sessions in {number * 4} namespaces …", flush=True)
        for lab in labs:
            lab_up(lab, "--sessions", str(sessions), "--tcp-timeout", "2h")
        running = subprocess.Popen([KEEPLINE, "guard", "--config", config],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(warm)
        before, start = ticks(), time.monotonic()
        time.sleep(measured)
        used = (ticks() - before) / os.sysconf("SC_CLK_TCK")
        share = used / (time.monotonic() - start)
        with open(f"/proc/{running.pid}/status") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        print(f"keepline guard uses {share:.2%} of a processor; peak memory {peak / 1024:.0f} MiB")
    finally:
        if running:
            running.terminate()
            running.wait()
        for lab in labs:
            lab_down(lab)
        shutil.rmtree(run, ignore_errors=True)


def directors():
    """A plan over many directors, beside a loop of the shell that sets one sysctl in each."""
    labs = [f"{LAB}d{number}" for number in range(DIRECTORS)]
    try:
        print(f"\nsetting up {DIRECTORS} directors …", flush=True)
        for lab in labs:
            lab_up(lab, "--sessions", "1", "--backends", "1", "--tcp-timeout", "1h")
        setting = "net.netfilter.nf_conntrack_tcp_timeout_established"
        loop = "; ".join(f"ip netns exec kl-{lab}-lb sysctl -qw {setting}=3600" for lab in labs)
        select = [word for lab in labs for word in ("--netns", f"kl-{lab}-lb")]
        shell = timed(["bash", "-c", loop])[0]
        ours = timed([KEEPLINE, "apply", "timeout", "--tcp", "2h", "--yes", *select])[0]
        undo = timed([KEEPLINE, "undo", "timeout", "--yes"])[0]
        print(f"timeouts of {DIRECTORS} directors (sysctl in a loop does not look, re-arm, verify"
              " or write down)")
        print(f"  sysctl in a loop         {shell:7.3f} s\n"
              f"  keepline apply timeout   {ours:7.3f} s   {shell / ours:5.1f} x\n"
              f"  keepline undo            {undo:7.3f} s")
    finally:
        for lab in labs:
            lab_down(lab)


def main():
    empty = [f"kl-{LAB}-empty{number}" for number in range(EMPTY)]
    try:
        print(f"setting up {SESSIONS} sessions …", flush=True)
        up = [KEEPLINE, "lab", "up", LAYOUT, "--name", LAB, "--sessions", str(SESSIONS)]
        up += ["--tcp-timeout", "2h", "-o", "json"]
        state = json.loads(subprocess.run(up, check=True, stdout=subprocess.PIPE).stdout)
        client, director = state["client_netns"], state["director_netns"]
        alone = measure(client, director)
        show(f"{SESSIONS} sessions (best of {ROUNDS})", alone)
        print(f"\nadding {EMPTY} empty namespaces …", flush=True)
        for name in empty:
            ip("netns", "add", name)
        beside = measure(client, director)
        show(f"the same beside {EMPTY} empty namespaces", beside)
        added = beside["keepline check"][0] / alone["keepline check"][0] - 1
        ratio = beside["pipeline"][0] / beside["keepline check"][0]
        print(f"\nkeepline check is {ratio:.1f} times as fast as the pipeline;"
              f" the empty namespaces add {max(added, 0):.1%};"
              f" peak memory {beside['keepline check'][1]:.0f} MiB")
        acts(client, director)
    finally:
        existing = ip("netns", "list", stdout=subprocess.PIPE, text=True).stdout
        present = {line.split()[0] for line in existing.splitlines() if line.strip()}
        for name in empty:
            if name in present:
                ip("netns", "delete", name)
        lab_down(LAB)
        shutil.rmtree(os.environ["KEEPLINE_RUN"], ignore_errors=True)
    if LAYOUT == "swarm":
        return
    directors()
    shutil.rmtree(os.environ["KEEPLINE_RUN"], ignore_errors=True)


if __name__ == "__main__":
    # Ctrl-C and SIGTERM clean up too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guard() if sys.argv[1:] == ["guard"] else main()
