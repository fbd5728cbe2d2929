"""Echo server and idle client for the containers of the Swarm tests.

peer.py serve PORT
    answers every line with itself and the server's host name.
peer.py idle HOST PORT SECONDS [GO_FILE]
    connects, exchanges one line, stays silent for SECONDS (or until GO_FILE exists),
    then writes again. Prints 'connected ADDRESS:PORT SERVER', then 'survived SECONDS'
    or 'lost: WHY SECONDS'; exits 1 when lost.
"""
import os
import socket
import socketserver
import sys
import time


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.rstrip() + b" " + socket.gethostname().encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


def exchange(sock, word):
    sock.sendall(word + b"\n")
    answer = sock.makefile("rb").readline().split()
    if not answer or answer[0] != word:
        raise ConnectionError("end of file")
    return answer[1].decode()


def idle(host, port, seconds, go=None):
    sock = socket.create_connection((host, port), timeout=20)
    server = exchange(sock, b"hello")
    print("connected", "%s:%d" % sock.getsockname()[:2], server, flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (go and os.path.exists(go)):
        time.sleep(0.1)
    start = time.monotonic()
    try:
        exchange(sock, b"again")
    except OSError as error:
        print("lost: %s %.2f" % (type(error).__name__, time.monotonic() - start))
        return 1
    print("survived %.2f" % (time.monotonic() - start))
    return 0


if sys.argv[1] == "serve":
    Server(("0.0.0.0", int(sys.argv[2])), Echo).serve_forever()
else:
    sys.exit(idle(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), *sys.argv[5:6]))
