"""DHCP: four-way exchanges (DISCOVER, OFFER, REQUEST, ACK) in a second, leases on disk.

perfdhcp plays a relay agent in front of a /15 of clients that were never seen, each with a MAC of its own; all servers get
the same packets and give addresses of the same pool. A server's rate is the highest at which perfdhcp had less than 0.5 % of
either half of the exchanges lost, by bisection. None of the servers probes: behind a relay pristine has nobody to ask, Kea
doesn't, dnsmasq has --no-ping. Pristine syncs each ACKed lease to the disk before it answers, dnsmasq writes and syncs its
file, Kea writes its file and does not sync it.
"""

import json
import os
import re
import shutil

from frame import Failed, Process, Sysctl, Wire, in_turns, median, say, wait_for
from pristine import OPEN_BOUNDS, Service

# perfdhcp counts by this: a rate that it could not even send is not one that was served.
DROPS, SENT = 0.005, 0.97
TOP = 60_000


def kea(wire, folder):
    leases = folder / "kea-leases.csv"
    config = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "udp"},
            "lease-database": {"type": "memfile", "persist": True, "name": str(leases), "lfc-interval": 0},
            "multi-threading": {"enable-multi-threading": True, "thread-pool-size": os.cpu_count(), "packet-queue-size": 64},
            "valid-lifetime": 3600,
            "subnet4": [{"id": 1, "subnet": "198.18.0.0/15", "pools": [{"pool": "198.18.16.0 - 198.19.255.250"}]}],
            "loggers": [{"name": "kea-dhcp4", "severity": "WARN", "output_options": [{"output": "stderr"}]}],
        }
    }
    path = folder / "kea.json"
    path.write_text(json.dumps(config))
    os.environ["KEA_PIDFILE_DIR"] = os.environ["KEA_LOCKFILE_DIR"] = str(folder)
    return Process("Kea", ["kea-dhcp4", "-c", path], folder / "kea.log", wire.server)


def dnsmasq(wire, folder):
    args = [
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-ping", "--interface=eth0",
        "--dhcp-range=198.18.16.0,198.19.255.250,255.254.0.0,1h", "--dhcp-lease-max=1000000", "--dhcp-authoritative",
        f"--dhcp-leasefile={folder / 'dnsmasq.leases'}", "--pid-file=", "--log-facility=/dev/null", "--quiet-dhcp",
        "--user=root",
    ]
    return Process("dnsmasq", args, folder / "dnsmasq.log", wire.server)


def pristine(wire, folder):
    return Service(wire.server, folder / "state", OPEN_BOUNDS)


SERVERS = {"pristine": pristine, "kea": kea, "dnsmasq": dnsmasq}


def measure(server, rate, seconds, folder, stamps=False):
    """One run of perfdhcp against a fresh server: exchanges in a second, drops, waits in ms, and processor time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Wire() as wire, SERVERS[server](wire, folder) as process:
        wait_for(f"{server} does not listen", lambda: ":67" in wire.server.run("ss", "-Hlun"), 20, process)
        wait_for(f"{server} gives no address", lambda: "received packets: 1" in perfdhcp(wire, "-n", 1, "-p", 1), 20, process)
        before = process.cpu()
        more = ["-x", "t"] if stamps else []
        said = perfdhcp(wire, "-r", rate, "-R", 2_000_000, "-p", seconds, "-b", "mac=02:00:00:00:00:00", "-W", 1_000_000, *more)
        cpu = process.cpu() - before
    return read(said, cpu, seconds)


def perfdhcp(wire, *args):
    # It ends with 3 where packets were lost; that is for us to judge.
    return wire.client.run("perfdhcp", "-4", "-l", "eth0", *args, Wire.server_ip, ok=(0, 3), timeout=120)


def read(said, cpu, seconds):
    halves = said.split("***Statistics for: ")[1:3]
    if len(halves) != 2:
        raise Failed(f"perfdhcp said something unexpected: {said[-400:]}")
    number = lambda text, name: float(re.search(rf"{name}: *([-\d.]+)", text)[1])
    found = {"cpu": cpu, "drops": 0.0}
    for name, half in zip(("offer", "ack"), halves):
        sent, got = number(half, "sent packets"), number(half, "received packets")
        found["drops"] = max(found["drops"], (sent - got) / sent if sent else 1.0)
        found[name] = {"sent": sent, "received": got, "avg_ms": number(half, "avg delay"), "max_ms": number(half, "max delay")}
        waits = stamps_of(half)
        if waits:
            found[name]["p50_ms"] = waits[len(waits) // 2]
            found[name]["p99_ms"] = waits[int(len(waits) * 0.99)]
    found["rate"] = found["ack"]["received"] / seconds
    return found


def stamps_of(half):
    """Waits in ms, sorted, from perfdhcp's times of each packet (`sent|received` in seconds)."""
    pairs = re.findall(r"^\s*(\d+\.\d+)\|(\d+\.\d+)\s*$", half, re.M)
    return sorted((float(got) - float(sent)) * 1000 for sent, got in pairs)


def holds(found, rate, seconds):
    return found["drops"] < DROPS and found["offer"]["sent"] >= SENT * rate * seconds


def highest(server, folder, seconds, tries):
    """The highest rate that holds, to a tenth, by doubling and bisection; a rate that fails once is tried once more."""
    good, bad, best = 0, None, None
    rate = 1_000
    for _ in range(tries):
        found = measure(server, rate, seconds, folder)
        if not holds(found, rate, seconds):
            found = measure(server, rate, seconds, folder)
        if holds(found, rate, seconds):
            good, best = rate, found
        else:
            bad = rate
        say(f"dhcp: {server} at {rate}/s: {found['drops']:.2%} lost, {'holds' if good == rate else 'too much'}")
        if good >= TOP or bad is not None and bad - good <= good * 0.1:
            break
        rate = min(good * 2, TOP) if bad is None else (good + bad) // 2
    if best is None:
        raise Failed(f"dhcp: {server} holds no rate")
    return good, best


# perfdhcp takes the kernel's default, 166 packets: what overflows there is counted as lost by a server that has answered.
# The servers' sockets get the same.
QUEUE = ("net.core.rmem_default", 16 << 20)


def rows(table, work, rounds, quick):
    with Sysctl(*QUEUE):
        measure_all(table, work, rounds, quick)


def measure_all(table, work, rounds, quick):
    folder = work / "dhcp"
    seconds, tries = (3, 9) if quick else (10, 13)
    rates, at = {}, {}
    for server in SERVERS:
        rates[server], at[server] = highest(server, folder, seconds, tries)
    # Once more in turns at the rates that were found, since the machine may have been busy in one bisection only.
    for _ in range(2):
        turns = in_turns(max(1, rounds // 2), {s: lambda s=s: measure(s, rates[s], seconds, folder) for s in SERVERS})
        slow = [s for s, runs in turns.items() if not holds(sorted(runs, key=lambda r: r["drops"])[len(runs) // 2], rates[s], seconds)]
        for s in slow:
            rates[s] = rates[s] * 9 // 10
        if not slow:
            break
    kept = {s: {"rate": rates[s], "runs": turns[s]} for s in SERVERS}
    cpu = {s: median([r["cpu"] / r["ack"]["received"] for r in turns[s] if r["ack"]["received"]]) * 1e6 for s in SERVERS}
    note = (
        f"{rates['pristine']}/s by {rates['kea']}/s and {rates['dnsmasq']}/s; processor time of the server per exchange: "
        f"{cpu['pristine']:.0f}, {cpu['kea']:.0f} and {cpu['dnsmasq']:.0f} us"
    )
    best = max(rates["kea"], rates["dnsmasq"])
    table.add("dhcp", "exchanges/s with < 0.5 % lost, leases on disk", "Kea (memfile, threads)", rates["pristine"] / rates["kea"], ">= 5", note, kept)
    table.add("dhcp", "the same", "dnsmasq (lease file)", rates["pristine"] / rates["dnsmasq"], ">= 1", f"best peer {best}/s", None)
    table.add("dhcp", "processor time per exchange", "Kea", cpu["pristine"] / cpu["kea"], "<= 1", "", cpu)
    pace = rates["kea"]
    turns = in_turns(rounds, {s: lambda s=s: measure(s, pace, seconds, folder, stamps=True) for s in ("pristine", "kea")})
    for half, what in (("offer", "DISCOVER to OFFER"), ("ack", "REQUEST to ACK")):
        p99 = {s: median([r[half].get("p99_ms", r[half]["max_ms"]) for r in runs]) for s, runs in turns.items()}
        note = f"{p99['pristine']:.2f} by {p99['kea']:.2f} ms"
        table.add("dhcp", f"p99 of {what} at Kea's highest rate", "Kea", p99["pristine"] / p99["kea"], "<= 1", note, p99)
