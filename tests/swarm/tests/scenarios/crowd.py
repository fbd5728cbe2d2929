"""Many silent clients in one process, steered from outside: connections to a server of peer.py.

crowd.py HOST PORT COUNT
    connects so often, and exchanges a line on each connection.
    Then "write" on stdin makes each exchange another, "close" ends them all.
Prints 'connected COUNT', then for each "write" 'survived N lost N strayed N': strayed is an answer
from another server than the connection's own.
"""
import socket
import sys


def exchange(sock, answers):
    sock.sendall(b"hello\n")
    words = answers.readline().split()
    if len(words) != 2:
        raise ConnectionError("closed")
    return words[1].decode()


host, port, count = sys.argv[1:]
crowd = []
for _ in range(int(count)):
    sock = socket.create_connection((host, int(port)), timeout=60)
    answers = sock.makefile("rb")
    crowd.append((sock, answers, exchange(sock, answers)))
print("connected", len(crowd), len({server for _, _, server in crowd}), flush=True)
for order in sys.stdin:
    if order == "close\n":
        break
    survived = lost = strayed = 0
    for sock, answers, server in crowd:
        try:
            if exchange(sock, answers) == server:
                survived += 1
            else:
                strayed += 1
        except OSError:
            lost += 1
    print("survived", survived, "lost", lost, "strayed", strayed, flush=True)
