"""Many clients that come and go, in one process: connections to a server of peer.py.

visitors.py HOST PORT COUNT
    The name is looked up once. Each connects, exchanges a line, waits in silence, exchanges another, closes, and so on.
    Prints "started" when all have connected once. "end" on stdin ends them.
Then prints one line of JSON: how many connections were made, how those ended that ended early
(aborted by the own kernel, reset, or closed by the server), and every connect that failed, each
with its time.
"""
import json
import random
import socket
import sys
import threading
import time

address, port, count = socket.gethostbyname(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
lock, stop = threading.Lock(), threading.Event()
told = {"connected": 0, "aborted": 0, "reset": 0, "closed": 0, "failed": [], "silent": 0}
first = set()


def add(what):
    with lock:
        told[what] += 1


def exchange(sock):
    sock.sendall(b"hello\n")
    if not sock.recv(256):
        raise EOFError


def visit(number):
    begun = time.time()
    try:
        sock = socket.create_connection((address, port), timeout=60)
    except OSError as error:
        with lock:
            told["failed"].append([begun, time.time(), repr(error)])
        stop.wait(1)
        return
    first.add(number)
    add("connected")
    with sock:
        try:
            exchange(sock)
            sock.settimeout(random.uniform(2, 12))
            try:
                # Nothing comes: who is told nothing learns nothing.
                if not sock.recv(256):
                    raise EOFError
            except socket.timeout:
                pass
            sock.settimeout(60)
            exchange(sock)
        except EOFError:
            add("closed")
        except ConnectionAbortedError:
            add("aborted")
        except ConnectionError:
            add("reset")
        except socket.timeout:
            add("silent")


def visitor(number):
    stop.wait(random.uniform(0, 5))
    while not stop.is_set():
        visit(number)


threading.stack_size(256 << 10)
for number in range(count):
    threading.Thread(target=visitor, args=(number,), daemon=True).start()
while len(first) < count:
    time.sleep(0.2)
print("started", flush=True)
for order in sys.stdin:
    if order == "end\n":
        break
stop.set()
time.sleep(1)
with lock:
    print(json.dumps(told), flush=True)
