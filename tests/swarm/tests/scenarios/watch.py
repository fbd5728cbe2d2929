"""What a director balances to, beside what a client is connected to. In the director's namespace:

watch.py PID TARGET
    PID: a process of the client. Looks five times a second, until the file TARGET.stop is there.
Writes to TARGET, as JSON, for each backend that left the table: its address, when it got weight 0,
when it left, whether its service left as a whole (a director that is made anew, a Swarm that takes the
other node for dead), and when the client's last connection to it was seen after that (made or being
made).
"""
import json
import os
import socket
import struct
import sys
import time

pid, target = sys.argv[1:]
table, left, slowest, drained = {}, [], 0.0, {}


def backends():
    """Services, and what each balances to, by weight."""
    found, service = {}, None
    for line in open("/proc/net/ip_vs"):
        words = line.split()
        if words[:1] == ["FWM"]:
            service = found.setdefault(words[1], {})
        elif words[:1] == ["->"] and service is not None and "Address" not in words[1]:
            service[socket.inet_ntoa(bytes.fromhex(words[1].split(":")[0]))] = int(words[3])
    return found


def connected():
    found = set()
    for name in "tcp", "tcp6":
        for line in open(f"/proc/{pid}/net/{name}").readlines()[1:]:
            words = line.split()
            if words[3] in ("01", "02"):
                last = words[2].split(":")[0][-8:]
                found.add(socket.inet_ntoa(struct.pack("<I", int(last, 16))))
    return found


last = time.time()
while not os.path.exists(target + ".stop"):
    now = time.time()
    slowest, last = max(slowest, now - last), now
    current, open_to = backends(), connected()
    there = {address: weight for service in current.values() for address, weight in service.items()}
    for mark, service in table.items():
        for address in set(service) - set(there):
            left.append({"address": address, "drained": drained.pop(address, None), "left": now,
                         "last": now, "over": False, "whole": mark not in current})
        for address, weight in service.items():
            if weight and there.get(address) == 0:
                drained[address] = now
    for it in left:
        # The address may be given to another task.
        it["over"] = it["over"] or it["address"] in there
        if not it["over"] and it["address"] in open_to:
            it["last"] = now
    table = current
    time.sleep(0.2)
with open(target, "w") as file:
    json.dump({"left": left, "slowest": slowest}, file)
