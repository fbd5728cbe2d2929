"""Many clients in one process, steered from outside: connections to a server of peer.py.

crowd.py HOST PORT COUNT [BUSY EVERY]
    connects COUNT times and exchanges a line on each connection; these are silent from then on.
    BUSY connections more ask every EVERY seconds, each its own question, all spread over that time.
    Then "write" on stdin makes each silent one exchange another line, "busy" asks how the busy ones
    fare, "close" ends them all.
Prints 'connected COUNT SERVERS', then for each "write" and "busy" 'survived N lost N strayed N':
strayed is an answer from another server than the connection's own. "busy" adds 'asked N', the
questions that were answered.
"""
import socket
import sys
import threading
import time


class Client:
    def __init__(self):
        self.sock = socket.create_connection((host, port), timeout=60)
        self.answers = self.sock.makefile("rb")
        self.fate = "survived"
        self.ask()
        self.server = self.answer()

    def ask(self):
        self.sock.sendall(b"hello\n")

    def answer(self):
        words = self.answers.readline().split()
        if len(words) != 2:
            raise ConnectionError("closed")
        return words[1].decode()

    def told(self):
        return "survived" if self.answer() == self.server else "strayed"


def go_round(crowd, every):
    """Reads of each what it asked a round ago, and asks again: none waits for another's answer."""
    global asked
    for client in crowd:
        client.ask()
    while True:
        begun = time.monotonic()
        for number, client in enumerate(crowd):
            time.sleep(max(0.0, begun + every * number / len(crowd) - time.monotonic()))
            if client.fate != "survived":
                continue
            try:
                client.fate = client.told()
                asked += 1
                client.ask()
            except OSError:
                client.fate = "lost"
        time.sleep(max(0.0, begun + every - time.monotonic()))


def fates(all):
    return " ".join("%s %d" % (fate, all.count(fate)) for fate in ("survived", "lost", "strayed"))


def written(client):
    try:
        client.ask()
        return client.told()
    except OSError:
        return "lost"


host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
asked = 0
silent = [Client() for _ in range(count)]
busy = []
if sys.argv[4:]:
    busy = [Client() for _ in range(int(sys.argv[4]))]
    threading.Thread(target=go_round, args=(busy, float(sys.argv[5])), daemon=True).start()
print("connected", len(silent), len({client.server for client in silent}), flush=True)
for order in sys.stdin:
    if order == "write\n":
        print(fates([written(client) for client in silent]), flush=True)
    elif order == "busy\n":
        print(fates([client.fate for client in busy]), "asked", asked, flush=True)
    elif order == "close\n":
        break
