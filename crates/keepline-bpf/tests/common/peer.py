"""A program with sockets, told on stdin what to do; each line is answered with one.

The same language is spoken by peer.c. Neither knows anything of Keepline.
"""
import errno, os, socket, sys

OPTIONS = {
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "probes": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
}
wishes, listener, at = [], None, None


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
    s.settimeout(5)
    s.connect((host, int(port)))
    return s


def answer(words):
    global listener, at
    match words:
        case ["wish", name, value]:  # before connect()
            wishes.append((name, int(value)))
        case ["connect", host, port]:
            at = connect(host, port)
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
        case ["load", host, port, count]:  # connections one after the other: failed, without keepalive
            failed = without = 0
            for _ in range(int(count)):
                try:
                    with connect(host, port) as s:
                        without += options(s).startswith("0")
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                except OSError:
                    failed += 1
            return f"{failed} {without}"
        case ["serve"]:  # accepts for ever, answers nothing
            import threading
            def run():
                while True:
                    listener.accept()[0].close()
            threading.Thread(target=run, daemon=True).start()
        case ["udp", host, port, text]:
            with made(host, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.sendto(text.encode(), (host, int(port)))
                data, origin = s.recvfrom(200)
                return f"{data.decode()} {origin[0]} {origin[1]}"
        case ["udp-connected", host, port, text]:
            with made(host, socket.SOCK_DGRAM) as s:
                s.settimeout(5)
                s.connect((host, int(port)))
                s.send(text.encode())
                return f"{s.recv(200).decode()} {s.getpeername()[0]} {s.getpeername()[1]}"
        case _:
            return f"what is {words}?"
    return "ok"


print("ready", flush=True)
for line in sys.stdin:
    try:
        print(answer(line.split()), flush=True)
    except OSError as error:
        print(errno.errorcode.get(error.errno, str(error)), flush=True)
