"""A client that comes and goes: connects to a server of peer.py, exchanges one line, closes,
and so on. What fails is tried again: the service changes meanwhile.

visits.py HOST PORT
"""
import socket
import sys
import time

while True:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as sock:
            sock.sendall(b"hello\n")
            sock.recv(256)
            time.sleep(0.5)
    except OSError:
        time.sleep(0.2)
