"""A client for the migration test: resolves a name and connects, ten times a second.

load.py HOST PORT
    prints its counts once a second, as one line of JSON: what was tried, which look-ups and which
    connects failed (a connect fails when no address of the answer takes it), and how often the
    first address alone refused.
"""
import json
import socket
import sys
import time

host, port = sys.argv[1], int(sys.argv[2])
counts = {"tried": 0, "lookups_failed": 0, "connects_failed": 0, "first_refused": 0, "slowest": 0.0, "said": []}


def say(what):
    if len(counts["said"]) < 20:
        counts["said"].append("%.1f %s" % (time.time() % 10000, what))


def attempt():
    counts["tried"] += 1
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        counts["lookups_failed"] += 1
        say("look-up: %r" % error)
        return
    for index, (_, _, _, _, address) in enumerate(found):
        try:
            with socket.create_connection(address, timeout=10) as sock:
                sock.sendall(b"hello\n")
                if not sock.recv(64):
                    raise ConnectionError("end of file")
            return
        except OSError as error:
            if index == 0:
                counts["first_refused"] += 1
            say("%s of %d: %r" % (address[0], len(found), error))
    counts["connects_failed"] += 1


told = 0.0
while True:
    begun = time.monotonic()
    attempt()
    took = time.monotonic() - begun
    counts["slowest"] = round(max(counts["slowest"], took), 2)
    if begun - told >= 1:
        told = begun
        print(json.dumps(counts), flush=True)
    time.sleep(max(0.0, 0.1 - took))
