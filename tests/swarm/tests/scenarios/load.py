"""Clients of a service that is migrated: one resolves its name and connects, ten times a second;
one keeps its connection, asks once a second, and connects anew when it was lost.

load.py HOST PORT
    prints its counts once a second, as one line of JSON: what was tried, which look-ups and which
    connects failed (a connect fails when no address of the answer takes it), how often the first
    address alone did, and how often the kept connection was lost.
"""
import json
import socket
import sys
import threading
import time

host, port = sys.argv[1], int(sys.argv[2])
counts = {"tried": 0, "lookups_failed": 0, "connects_failed": 0, "first_refused": 0,
          "asked": 0, "kept_lost": 0, "slowest": 0.0, "said": []}


def say(what):
    if len(counts["said"]) < 40:
        counts["said"].append("%.1f %s" % (time.time() % 10000, what))


def exchange(sock):
    sock.sendall(b"hello\n")
    if not sock.recv(256):
        raise ConnectionError("end of file")


def connected():
    """An answered connection to the first address that takes it; None when there is none."""
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        counts["lookups_failed"] += 1
        say("look-up: %r" % error)
        return None
    for index, (_, _, _, _, address) in enumerate(found):
        try:
            sock = socket.create_connection(address, timeout=10)
            exchange(sock)
            return sock
        except OSError as error:
            if index == 0:
                counts["first_refused"] += 1
            say("%s of %d: %r" % (address[0], len(found), error))
    counts["connects_failed"] += 1
    return None


def keep():
    sock = connected()
    while True:
        time.sleep(1)
        try:
            if sock:
                exchange(sock)
                counts["asked"] += 1
                continue
        except OSError as error:
            counts["kept_lost"] += 1
            say("kept: %r" % error)
            sock.close()
        sock = connected()


threading.Thread(target=keep, daemon=True).start()
told = 0.0
while True:
    begun = time.monotonic()
    counts["tried"] += 1
    sock = connected()
    if sock:
        sock.close()
    took = time.monotonic() - begun
    counts["slowest"] = round(max(counts["slowest"], took), 2)
    if begun - told >= 1:
        told = begun
        print(json.dumps(counts), flush=True)
    time.sleep(max(0.0, 0.1 - took))
