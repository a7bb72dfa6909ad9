"""DHCP: four-way exchanges (DISCOVER, OFFER, REQUEST, ACK) in a second, leases on disk.

The load is a relay agent in front of clients that were never seen, each with a MAC of its own; all servers get the same packets for the same
time and give addresses of the same pool. A server's rate is the highest at which less than 0.5 % of either half of the exchanges is lost, by bisection;
by perfdhcp, and by the bench's own dhcpload, since on a small machine perfdhcp takes more processor time for an exchange than the servers do.

None of the servers probes: behind a relay pristine has nobody to ask, Kea doesn't, dnsmasq has --no-ping. Pristine syncs each ACKed lease to the
disk before it answers, dnsmasq writes and syncs its file, Kea writes its file and does not sync it. Pristine's bounds on strangers are raised, as
all clients are strangers.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

from frame import Failed, Process, Relay, Sysctl, in_turns, median, run, say, wait_for
from pristine import OPEN_BOUNDS, Service
from tools import built

DROPS, SENT = 0.005, 0.97
TOP = 60_000
# More than TOP asks for in a run, and the tenth that pristine keeps for known machines.
FIRST, LAST = "10.1.0.0", "10.8.255.254"
POOL = f'\n[[subnet]]\nnetwork = "10.0.0.0/8"\npools = ["{FIRST}-{LAST}"]\n' + OPEN_BOUNDS


def kea(wire, folder):
    # A thread a core, faster on two cores than the four of its manual; a queue of 4096, faster than those of 28, 64 and any length.
    leases = folder / "kea-leases.csv"
    config = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "udp"},
            "lease-database": {"type": "memfile", "persist": True, "name": str(leases), "lfc-interval": 0},
            "multi-threading": {"enable-multi-threading": True, "thread-pool-size": os.cpu_count(), "packet-queue-size": 4096},
            "valid-lifetime": 3600,
            "subnet4": [{"id": 1, "subnet": "10.0.0.0/8", "pools": [{"pool": f"{FIRST} - {LAST}"}]}],
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
        f"--dhcp-range={FIRST},{LAST},255.0.0.0,1h", "--dhcp-lease-max=1000000", "--dhcp-authoritative",
        f"--dhcp-leasefile={folder / 'dnsmasq.leases'}", "--pid-file=", "--log-facility=/dev/null", "--quiet-dhcp",
        "--user=root",
    ]
    return Process("dnsmasq", args, folder / "dnsmasq.log", wire.server)


def pristine(wire, folder):
    return Service(wire.server, folder / "state", POOL)


def unsynced(wire, folder):
    """Pristine with its state in memory, where a sync costs nothing: what it promises then is what Kea does."""
    shutil.rmtree(IN_MEMORY, ignore_errors=True)
    IN_MEMORY.mkdir()
    return Service(wire.server, IN_MEMORY / "state", POOL)


def floor(wire, folder):
    """A loop that decides nothing and keeps nothing."""
    return Process("dhcpfloor", [built("dhcpfloor"), wire.server_ip], folder / "dhcpfloor.log", wire.server)


IN_MEMORY = Path(f"/dev/shm/pristine-bench-{os.getpid()}")
SERVERS = {"floor": floor, "unsynced": unsynced, "pristine": pristine, "kea": kea, "dnsmasq": dnsmasq}
NAMES = {"kea": "Kea (memfile, threads)", "dnsmasq": "dnsmasq (lease file)"}


def measure(server, tool, rate, seconds, folder):
    """One run against a fresh server: exchanges in a second, drops, waits in ms, and processor time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Relay() as wire, SERVERS[server](wire, folder) as process:
        wait_for(f"{server} does not listen", lambda: ":67" in wire.server.run("ss", "-Hlun"), 20, process)
        wait_for(f"{server} gives no address", lambda: by_dhcpload(wire, 10, 0.2)["ack"]["received"] > 0, 20, process)
        before, mine = process.cpu(), os.times()
        found = TOOLS[tool](wire, rate, seconds)
        found["cpu"] = process.cpu() - before
        found["client_cpu"] = sum(os.times()[2:4]) - sum(mine[2:4])
    halves = (found["offer"], found["ack"])
    found["drops"] = max((h["sent"] - h["received"]) / h["sent"] if h["sent"] else 1.0 for h in halves)
    found["rate"] = found["ack"]["received"] / seconds
    found["seconds"] = seconds
    return found


def by_dhcpload(wire, rate, seconds):
    return json.loads(wire.client.run(built("dhcpload"), wire.relay_ip, wire.server_ip, rate, seconds, timeout=120))


def by_perfdhcp(wire, rate, seconds):
    said = perfdhcp(wire, "-r", rate, "-R", 2_000_000, "-p", seconds, "-b", "mac=02:00:00:00:00:00", "-W", 100_000)
    halves = said.split("***Statistics for: ")[1:3]
    if len(halves) != 2:
        raise Failed(f"perfdhcp said something unexpected: {said[-400:]}")
    number = lambda text, name: float(re.search(rf"{name}: *([-\d.]+)", text)[1])
    of = lambda half: {"sent": number(half, "sent packets"), "received": number(half, "received packets"),
                       "avg_ms": number(half, "avg delay"), "max_ms": number(half, "max delay")}
    return {"offer": of(halves[0]), "ack": of(halves[1])}


TOOLS = {"perfdhcp": by_perfdhcp, "dhcpload": by_dhcpload}


def perfdhcp(wire, *args):
    # It ends with 3 where packets were lost; that is for us to judge.
    return wire.client.run("perfdhcp", "-4", "-l", wire.relay_ip, *args, wire.server_ip, ok=(0, 3), timeout=120)


def holds(found, rate):
    # A rate that the load could not even send is not one that was served.
    return found["drops"] < DROPS and found["offer"]["sent"] >= SENT * rate * found["seconds"]


def highest(server, tool, folder, seconds, tries):
    """The highest rate that holds, to a twenty-fifth, by doubling and bisection; a rate that fails once is tried once more."""
    good, bad = 0, None
    rate = 64 if server == "dnsmasq" else 2_000
    for _ in range(tries):
        found = measure(server, tool, rate, seconds, folder)
        if not holds(found, rate):
            found = measure(server, tool, rate, seconds, folder)
        held = holds(found, rate)
        say(f"dhcp: {server} by {tool} at {rate}/s: {found['drops']:.2%} lost, {'holds' if held else 'too much'}")
        if held:
            good = rate
        else:
            bad = rate
        if good >= TOP or bad is not None and bad - good <= good * 0.04:
            break
        rate = min(good * 2, TOP) if bad is None else (good + bad) // 2
    if good == 0:
        raise Failed(f"dhcp: {server} holds no rate")
    return good


# perfdhcp takes the kernel's default, 166 packets: what overflows there is counted as lost by a server that has answered.
# The servers' sockets get the same.
QUEUE = ("net.core.rmem_default", 16 << 20)


def rows(table, work, rounds, quick):
    folder = work / "dhcp"
    # perfdhcp knows whole seconds.
    seconds, tries = (3, 11) if quick else (6, 14)
    with Sysctl(*QUEUE):
        kea_rate = by_tool(table, "dhcpload", ("pristine", "kea", "dnsmasq"), folder, rounds, seconds, tries)
        by_tool(table, "perfdhcp", ("pristine", "kea"), folder, rounds, seconds, tries)
        waits(table, folder, rounds, seconds, kea_rate)


def by_tool(table, tool, servers, folder, rounds, seconds, tries):
    """Rows of the highest rates; gives Kea's."""
    rates = {s: highest(s, tool, folder, seconds, tries) for s in servers}
    # Once more in turns, since the machine may have been busy in one bisection only: a rate holds where half of the runs do.
    for _ in range(8):
        # perfdhcp takes no answers of the floor's.
        if tool == "dhcpload":
            rates["floor"] = rates["pristine"]
        turns = in_turns(max(1, rounds // 2), {s: lambda s=s: measure(s, tool, rates[s], seconds, folder) for s in rates})
        slow = [s for s, runs in turns.items() if s != "floor" and not holds(sorted(runs, key=lambda r: r["drops"])[len(runs) // 2], rates[s])]
        for s in slow:
            rates[s] = rates[s] * 9 // 10
        if not slow:
            break
    else:
        raise Failed(f"dhcp: {', '.join(slow)} by {tool} holds no rate twice: the machine is too busy")
    each = lambda key, s: median([r[key] / max(1, r["ack"]["received"]) for r in turns[s]]) * 1e6
    figures = {s: {"rate": rates[s], "cpu_us": each("cpu", s), "client_cpu_us": each("client_cpu", s), "runs": turns[s]} for s in rates}
    spent = ", ".join(f"{s} {f['cpu_us']:.0f}" for s, f in figures.items())
    # A server whose rate fills the cores is one that a machine with more of them would let go faster.
    busy = {s: rates[s] * (f["cpu_us"] + f["client_cpu_us"]) / 1e6 / os.cpu_count() for s, f in figures.items()}
    for peer in servers[1:]:
        reach = {"kea": ">= 5", "dnsmasq": ">= 1"}[peer]
        note = (
            f"{rates['pristine']} by {rates[peer]}/s; {tool} itself takes {figures['pristine']['client_cpu_us']:.0f} us of processor time an exchange; "
            f"it and the server keep {busy['pristine'] * 100:.0f} by {busy[peer] * 100:.0f} % of the cores busy"
        )
        if "floor" in busy:
            note += f", and a loop of recv and send {busy['floor'] * 100:.0f} %"
        if rates["pristine"] >= TOP:
            note += "; the bench asks for no more"
        table.add("dhcp", f"exchanges/s with < 0.5 % lost, {tool}", NAMES[peer], rates["pristine"] / rates[peer], reach, note, figures)
    cpu = figures["pristine"]["cpu_us"] / figures["kea"]["cpu_us"]
    table.add("dhcp", f"CPU per exchange at that rate, {tool}", NAMES["kea"], cpu, "<= 1", f"us: {spent}", None)
    return rates["kea"]


def waits(table, folder, rounds, seconds, rate):
    turns = in_turns(rounds, {s: lambda s=s: measure(s, "dhcpload", rate, seconds, folder) for s in ("pristine", "kea", "unsynced")})
    shutil.rmtree(IN_MEMORY, ignore_errors=True)
    sync = json.loads(run(sys.executable, "-B", built("sync.py"), folder / "sync", 2))["p50_ms"]
    why = {"offer": "", "ack": f"; an ACK of pristine waits for one or two syncs of {sync:.1f} ms, which Kea doesn't make"}
    for half, what in (("offer", "DISCOVER to OFFER"), ("ack", "REQUEST to ACK")):
        at = {s: {k: median([r[half][k] for r in runs]) for k in ("p50_ms", "p99_ms")} for s, runs in turns.items()}
        mine, theirs = at["pristine"], at["kea"]
        note = f"{mine['p99_ms']:.2f} by {theirs['p99_ms']:.2f} ms; medians {mine['p50_ms']:.2f} and {theirs['p50_ms']:.2f}{why[half]}"
        table.add("dhcp", f"p99 of {what} at Kea's highest rate", NAMES["kea"], mine["p99_ms"] / theirs["p99_ms"], "<= 1", note, turns)
    mine, theirs = at["unsynced"], at["kea"]
    note = f"{mine['p99_ms']:.2f} by {theirs['p99_ms']:.2f} ms: pristine with its state in memory, where a sync is free"
    table.add("dhcp", "p99 of REQUEST to ACK, neither synced", NAMES["kea"], mine["p99_ms"] / theirs["p99_ms"], "<= 1", note, None)
