"""A program with sockets, told on stdin what to do; each line is answered with one.

The same language is spoken by peer.c. Neither knows anything of Keepline.
"""
import collections, ctypes, errno, socket, sys, threading, time

OPTIONS = {
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "probes": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
}
wishes, listener, at, datagrams = [], None, None, None


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def made(host, kind=socket.SOCK_STREAM):
    s = socket.socket(family(host), kind)
    for name, value in wishes:
        s.setsockopt(*OPTIONS[name], value)
    return s


def options(s):
    return " ".join(str(s.getsockopt(*OPTIONS[name])) for name in OPTIONS)


def connect(host, port):
    s = made(host)
    s.settimeout(30)
    s.connect((host, int(port)))
    return s


def spread(host, port, more):
    answers = collections.Counter()
    while more(answers.total()):
        try:
            with connect(host, port) as s:
                answers[s.recv(200).decode().strip()] += 1
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError as error:
            answers[errno.errorcode.get(error.errno, "timeout")] += 1
    return " ".join(f"{name}={number}" for name, number in sorted(answers.items()))


def answer(words):
    global listener, at, datagrams
    match words:
        case ["wish", name, value]:  # before connect()
            wishes.append((name, int(value)))
        case ["connect", host, port]:
            at = connect(host, port)
        case ["reconnect", host, port]:  # the same socket, after a connect() to AF_UNSPEC
            ctypes.CDLL(None).connect(at.fileno(), bytes(16), 16)
            at.connect((host, int(port)))
        case ["listen", host, port]:
            listener = socket.socket(family(host))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(port)))
            listener.listen(1024)
        case ["accept"]:
            at = listener.accept()[0]
        case ["set", name, value]:
            at.setsockopt(*OPTIONS[name], int(value))
        case ["big", length]:  # an option of many bytes: refused or not, never EFAULT
            at.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno" + bytes(int(length) - 4))
        case ["get"]:
            return options(at)
        case ["peer"]:
            return " ".join(map(str, at.getpeername()[:2]))
        case ["send", text]:
            at.sendall(text.encode() + b"\n")
        case ["receive"]:
            return at.recv(200).decode().strip()
        case ["load", host, port, seconds]:  # connections: failed, without keepalive, all
            failed = without = total = 0
            end = time.monotonic() + int(seconds)
            while time.monotonic() < end:
                total += 1
                try:
                    with connect(host, port) as s:
                        without += options(s).startswith("0")
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                except OSError:
                    failed += 1
            return f"{failed} {without} {total}"
        case ["serve", *text]:  # accepts for ever, says who it is
            def run(l, text):
                held = collections.deque(maxlen=64)
                while True:
                    held.append(l.accept()[0])
                    try:
                        held[-1].sendall(text + b"\n")
                    except OSError:
                        pass
            threading.Thread(target=run, args=(listener, " ".join(text).encode()), daemon=True).start()
        case ["spread", host, port, count]:  # who answered how often
            return spread(host, port, lambda done: done < int(count))
        case ["spread-for", host, port, seconds]:
            end = time.monotonic() + int(seconds)
            return spread(host, port, lambda done: time.monotonic() < end)
        case ["serve-udp", host, port, text]:  # answers every datagram with who it is
            s = socket.socket(family(host), socket.SOCK_DGRAM)
            s.bind((host, int(port)))
            def run(s, text):
                while True:
                    s.sendto(text.encode(), s.recvfrom(200)[1])
            threading.Thread(target=run, args=(s, text), daemon=True).start()
        case ["udp", host, port, count]:  # one socket: distinct answers and origins
            datagrams = datagrams or made(host, socket.SOCK_DGRAM)
            datagrams.settimeout(30)
            seen = set()
            for _ in range(int(count)):
                datagrams.sendto(b"who", (host, int(port)))
                data, origin = datagrams.recvfrom(200)
                seen.add(f"{data.decode()} {origin[0]} {origin[1]}")
            return ", ".join(sorted(seen))
        case ["udp-connected", host, port]:
            with made(host, socket.SOCK_DGRAM) as s:
                s.settimeout(30)
                s.connect((host, int(port)))
                s.send(b"who")
                data, origin = s.recvfrom(200)
                return f"{data.decode()} {origin[0]} {origin[1]} {s.getpeername()[0]} {s.getpeername()[1]}"
        case ["udp-connect", host, port]:
            datagrams = made(host, socket.SOCK_DGRAM)
            datagrams.settimeout(5)
            datagrams.connect((host, int(port)))
        case ["udp-send", *to]:  # to the peer, or with an address: the answer and its origin
            datagrams.sendto(b"who", (to[0], int(to[1]))) if to else datagrams.send(b"who")
            data, origin = datagrams.recvfrom(200)
            return f"{data.decode()} {origin[0]} {origin[1]}"
        case _:
            return f"what is {words}?"
    return "ok"


print("ready", flush=True)
for line in sys.stdin:
    try:
        print(answer(line.split()), flush=True)
    except OSError as error:
        print(errno.errorcode.get(error.errno, str(error)), flush=True)
