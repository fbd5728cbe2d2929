"""A client that comes and goes: connects to a server of peer.py, exchanges one line, closes,
and so on. What fails is tried again: the service changes meanwhile.

visits.py HOST PORT
Prints for each connection its own port and what became of it: 'served PORT', 'ended PORT' (by the
server), or 'lost PORT WHY'.
"""
import socket
import sys
import time

while True:
    try:
        sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
    except OSError:
        time.sleep(0.2)
        continue
    with sock:
        port = sock.getsockname()[1]
        try:
            sock.sendall(b"hello\n")
            served = sock.recv(256)
            print("served" if served else "ended", port, flush=True)
            time.sleep(0.5 if served else 0.2)
        except OSError as error:
            print("lost", port, type(error).__name__, flush=True)
            time.sleep(0.2)
