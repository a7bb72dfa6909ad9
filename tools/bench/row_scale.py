"""The service with 100,000 machines and 1,000,000 leases next to itself with 1,000 machines: start, memory, one DHCP answer, to machines that
are known (and hold leases, where there are any) and to strangers, from a pool that is half full.

Machines come by `pristine machine import`; leases, which only DHCP makes, are written as rows of the database while the service is not
running.
"""

import json
import shutil
import sqlite3
import time

from frame import Relay, in_turns, median, say
from pristine import OPEN_BOUNDS, Service
from tools import built

# A subnet gives out 1,048,576 addresses at most, and its last tenth to known machines only. The relay asks for the first.
POOLS = {"10.16.0.0/12": "10.16.0.1-10.31.255.253", "10.0.0.0/12": "10.0.0.1-10.15.255.253"}
MANY = "".join(f'\n[[subnet]]\nnetwork = "{network}"\npools = ["{pool}"]\n' for network, pool in POOLS.items()) + OPEN_BOUNDS
# The second octet of the machines' MACs.
KNOWN = "10"


def mac(n):
    return f"02:{KNOWN}:" + ":".join(f"{b:02x}" for b in n.to_bytes(4, "big"))


def seed_machines(wire, state, count):
    rows = state.with_suffix(".csv")
    with open(rows, "w") as out:
        out.write("mac,hostname,rack,label.role\n")
        for n in range(count):
            out.write(f"{mac(n)},node{n},rack{n // 40},web\n")
    with Service(wire.server, state, MANY) as service:
        service.command("machine", "import", rows)


def seed_leases(state, count):
    expires = int((time.time() + 86_400) * 1000)
    body = lambda n, ip: json.dumps({"addr": ip, "client": {"mac": mac(n)}, "mac": mac(n), "state": "bound", "expires": expires + n, "hostname": None})

    def leases():
        for n in range(count):
            addr = (0x0a100001 + n) if n < count // 2 else (0x0a000001 + n - count // 2)
            yield addr, mac(n), body(n, ".".join(str(b) for b in addr.to_bytes(4, "big")))

    db = sqlite3.connect(state / "pristine.db")
    with db:
        db.executemany("INSERT INTO leases (addr, mac, body) VALUES (?, ?, ?)", leases())
    db.close()


def rows(table, work, rounds, quick):
    folder = work / "scale"
    folder.mkdir()
    many, leases = (10_000, 100_000) if quick else (100_000, 1_000_000)
    states = {name: folder / name for name in ("small", "machines", "big")}
    with Relay() as wire:
        seed_machines(wire, states["small"], 1_000)
        seed_machines(wire, states["machines"], many)
        shutil.copytree(states["machines"], states["big"])
        seed_leases(states["big"], leases)
        say("scale: seeded")

        def once(name):
            with Service(wire.server, states[name], MANY) as service:
                found = {"start": service.start_time, "rss": service.rss()}
                load = lambda *args: json.loads(wire.client.run(built("dhcpload"), wire.relay_ip, wire.server_ip, *args))
                # Firsts are slower everywhere. Of 1,000 machines, 900 are asked.
                load(200, 1)
                found["known"] = load(300, 3, KNOWN)["offer"]["p50_ms"]
                before = service.cpu()
                said = load(2000, 3)
                found["cpu"] = (service.cpu() - before) / said["ack"]["received"] * 1e6
                found["stranger"] = said["offer"]["p50_ms"]
                return found

        turns = in_turns(rounds, {name: lambda name=name: once(name) for name in states})
    at = {name: {k: median([r[k] for r in runs]) for k in runs[0]} for name, runs in turns.items()}
    small, mid, big = at["small"], at["machines"], at["big"]
    what = f"{many:,} machines, {leases:,} leases"
    table.add("scale", f"start with {what}, seconds", "3 s", big["start"], "<= 3", f"{small['start']:.2f} s with 1,000 machines, {mid['start']:.2f} without the leases", turns)
    for who, whom in (("known", "a known machine"), ("stranger", "a stranger")):
        note = f"{big[who] * 1000:.0f} by {small[who] * 1000:.0f} us"
        table.add("scale", f"time of a DHCP answer to {whom} (OFFER)", "itself, 1,000 machines", big[who] / small[who], "<= 1.3", note, at)
    table.add("scale", "processor time of an exchange", "itself, 1,000 machines", big["cpu"] / small["cpu"], None, f"{big['cpu']:.0f} by {small['cpu']:.0f} us", None)
    machine = (mid["rss"] - small["rss"]) / (many - 1_000)
    lease = (big["rss"] - mid["rss"]) / leases
    note = f"{lease:,.0f} bytes a lease; {big['rss'] / (1 << 20):.0f} MiB in all, {small['rss'] / (1 << 20):.0f} with 1,000 machines"
    table.add("scale", "memory, bytes a machine", "", machine, None, note, None)
