"""The service with 100,000 machines and 1,000,000 leases next to itself with 1,000 machines: start, memory, one DHCP answer.

Machines come by `pristine machine import`; leases, which only DHCP makes, are written as rows of the database while the service is not
running.
"""

import json
import shutil
import sqlite3
import time

from frame import Wire, in_turns, median, say
from pristine import OPEN_BOUNDS, Service
from tools import built

# 10.0.0.0/12 is on record only: no address of it is on any interface.
MANY = '\n[[subnet]]\nnetwork = "10.0.0.0/12"\npools = ["10.0.0.1-10.15.255.254"]\n' + OPEN_BOUNDS


def mac(n):
    return "02:10:" + ":".join(f"{b:02x}" for b in n.to_bytes(4, "big"))


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
            addr = (10 << 24) + 1 + n
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
    with Wire() as wire:
        seed_machines(wire, states["small"], 1_000)
        seed_machines(wire, states["machines"], many)
        shutil.copytree(states["machines"], states["big"])
        seed_leases(states["big"], leases)
        say("scale: seeded")

        def once(name):
            with Service(wire.server, states[name], MANY) as service:
                found = {"start": service.start_time, "rss": service.rss()}
                load = [built("dhcpload"), wire.client_ip, wire.server_ip]
                # Firsts are slower everywhere.
                wire.client.run(*load, 200, 1)
                before = service.cpu()
                said = json.loads(wire.client.run(*load, 2000, 3))
                found["cpu"] = (service.cpu() - before) / said["ack"]["received"] * 1e6
                found["offer"] = said["offer"]["p50_ms"]
                return found

        turns = in_turns(rounds, {name: lambda name=name: once(name) for name in states})
    at = {name: {k: median([r[k] for r in runs]) for k in runs[0]} for name, runs in turns.items()}
    small, mid, big = at["small"], at["machines"], at["big"]
    what = f"{many:,} machines, {leases:,} leases"
    table.add("scale", f"start with {what}, seconds", "3 s", big["start"], "<= 3", f"{small['start']:.2f} s with 1,000 machines, {mid['start']:.2f} without the leases", turns)
    table.add("scale", "time of a DHCP answer (OFFER, median)", "itself, 1,000 machines", big["offer"] / small["offer"], "<= 1.3", f"{big['offer'] * 1000:.0f} by {small['offer'] * 1000:.0f} us", at)
    table.add("scale", "processor time of an exchange", "itself, 1,000 machines", big["cpu"] / small["cpu"], None, f"{big['cpu']:.0f} by {small['cpu']:.0f} us", None)
    machine = (mid["rss"] - small["rss"]) / (many - 1_000)
    lease = (big["rss"] - mid["rss"]) / leases
    note = f"{lease:,.0f} bytes a lease; {big['rss'] / (1 << 20):.0f} MiB in all, {small['rss'] / (1 << 20):.0f} with 1,000 machines"
    table.add("scale", "memory, bytes a machine", "", machine, None, note, None)
