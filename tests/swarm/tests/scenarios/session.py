"""A client whose silence is steered from outside: one connection to a server of peer.py.

session.py HOST PORT [KEEPALIVE]
    connects, with keepalive after so many seconds of silence if given, and exchanges one line.
    Then "write" on stdin makes it exchange another, "close" ends it.
Prints 'connected CLIENT SERVER CONTAINER', then for each "write" 'survived' or 'lost WHY'.
"""
import socket
import sys
import time


def exchange(sock, answers):
    sock.sendall(b"hello\n")
    words = answers.readline().split()
    if len(words) != 2:
        raise ConnectionError("closed")
    return words[1].decode()


def connect(host, port):
    """Name and port work only a while after the Engine has said that the task runs."""
    end = time.monotonic() + 120
    while True:
        try:
            return socket.create_connection((host, port), timeout=60)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


host, port, *keepalive = sys.argv[1:]
sock = connect(host, int(port))
for seconds in keepalive:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(seconds))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(seconds))
answers = sock.makefile("rb")
server = exchange(sock, answers)
print("connected", *("%s:%d" % end[:2] for end in (sock.getsockname(), sock.getpeername())), server, flush=True)
for order in sys.stdin:
    if order == "close\n":
        break
    try:
        exchange(sock, answers)
        print("survived", flush=True)
    except OSError as error:
        print("lost", type(error).__name__, flush=True)
