"""A root over HTTP: throughput, and processor time of the server for a GiB; as a plain file and in chunks; from the page cache and
from the disk; to one client and to 64.

The clients throw away what they get inside the kernel (drain.c). The peer is nginx with sendfile and tcp_nopush, a worker a
core, and without a log. Both serve the same bytes over a veth pair.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from content import drop_from_cache, imported, plain, squashfs
from frame import GIB, Failed, Process, Wire, in_turns, median, run, spread, wait_for
from pristine import OPEN_BOUNDS, Service
from tools import built

NGINX = """
daemon off; worker_processes auto; pid {folder}/nginx.pid; error_log {folder}/nginx.err; user root;
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; root {folder}/www; {more}
    server {{ listen 198.18.0.1:{port} reuseport; {server} }}
}}
"""


def nginx(wire, folder, port=8080, more="", server=""):
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, port=port, more=more, server=server))
    process = Process("nginx", ["nginx", "-c", conf, "-e", folder / "nginx.err"], folder / "nginx.log", wire.server)
    wait_for("nginx does not listen", lambda: f":{port}" in wire.server.run("ss", "-Hltn"), 20, process)
    return process


class Site:
    """The servers, on the same wire: pristine with the root in chunks, pristine with it as a file, nginx."""

    def __init__(self, work, mib):
        self.folder = work / "http"
        self.folder.mkdir()
        self.root = squashfs(self.folder, mib)
        self.digest = imported(self.folder / "chunks", self.folder, self.root)
        shutil.copytree(self.folder / "chunks", self.folder / "plain")
        plain(self.folder / "plain", self.digest, self.root)
        (self.folder / "www").mkdir()
        shutil.copyfile(self.root, self.folder / "www/root")
        (self.folder / "www/small").write_text("#!ipxe\n")
        # What changed within the last two seconds is hashed each time it is sent.
        time.sleep(3)

    def start(self, wire, which):
        if which == "nginx":
            return nginx(wire, self.folder)
        if which == "floor":
            args = [built("floor"), wire.server_ip, 8080, self.folder / "www/root"]
            process = Process("floor", args, self.folder / "floor.log", wire.server)
            wait_for("floor does not listen", lambda: ":8080" in wire.server.run("ss", "-Hltn"), 20, process)
            return process
        return Service(wire.server, self.folder / which, OPEN_BOUNDS)

    def path(self, which):
        return (8080, "/root") if which in ("nginx", "floor") else (80, f"/blobs/{self.digest}")

    def drain(self, wire, process, which, clients, seconds, once=False):
        port, path = self.path(which)
        before, machine = process.cpu(), idle()
        args = [built("drain"), wire.server_ip, port, path, clients, seconds, *(["once"] if once else [])]
        said = json.loads(wire.client.run(*args, timeout=seconds + 60))
        if said["errors"] or not said["bytes"]:
            raise Failed(f"http: {which} sent errors or nothing: {said}")
        rests, all_of_it = (after - before for after, before in zip(idle(), machine))
        return {
            "bytes_s": said["bytes"] / said["seconds"], "cpu_gib": (process.cpu() - before) / said["bytes"] * GIB,
            "idle": rests / max(all_of_it, 1),
        }


def idle():
    """Ticks that all cores rested, and all ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return ticks[3], sum(ticks[:8])


def rows(table, work, rounds, quick):
    site = Site(work, 128 if quick else 512)
    kinds = ("plain", "chunks", "nginx")
    seconds = 2 if quick else 5
    for clients, faster, cheaper in ((1, ">= 1.5", "<= 0.8"), (64, ">= 1", "<= 1")):
        def once(which):
            with Wire() as wire, site.start(wire, which) as process:
                # The first answer opens the files and finds them in the page cache.
                site.drain(wire, process, which, 1, 60, once=True)
                return site.drain(wire, process, which, clients, seconds)
        turns = in_turns(rounds, {k: lambda k=k: once(k) for k in (*kinds, "floor")})
        tell(table, clients, "page cache", turns, faster, cheaper)
    for clients in (1, 64):
        def cold(which):
            with Wire() as wire, site.start(wire, which) as process:
                # A service hashes what it sends the first time.
                site.drain(wire, process, which, 1, 60, once=True)
                drop_from_cache(site.folder, process)
                return site.drain(wire, process, which, clients, 120, once=True)
        # Less than a second each.
        turns = in_turns(2 * rounds, {k: lambda k=k: cold(k) for k in (*kinds, *(["floor"] if clients > 1 else []))})
        tell(table, clients, "cold", turns, ">= 1", "<= 1")
    stalls(table, site, rounds)


def tell(table, clients, where, turns, faster, cheaper):
    how = f"{clients} client{'s' if clients > 1 else ''}, {where}"
    speed = {k: median([r["bytes_s"] for r in runs]) for k, runs in turns.items()}
    cpu, rest = ({k: median([r[what] for r in runs]) for k, runs in turns.items()} for what in ("cpu_gib", "idle"))
    if "floor" in turns and clients == 1:
        # One connection keeps one core busy. What the loop itself gets through it is no measure: it sleeps between.
        note = f"{cpu['floor']:.3f} by {cpu['nginx']:.3f} s/GiB: a core that does nothing else gives {1 / cpu['floor'] / (speed['nginx'] / GIB):.2f} times nginx's throughput"
        table.add("http", f"CPU per GiB, {how}, a bare loop of sendfile", "nginx sendfile", cpu["floor"] / cpu["nginx"], None, note, None)
    elif "floor" in turns:
        note = f"{speed['floor'] / GIB:.2f} by {speed['nginx'] / GIB:.2f} GiB/s: a thread for each connection that does nothing else"
        table.add("http", f"throughput, {how}, bare loops of sendfile", "nginx sendfile", speed["floor"] / speed["nginx"], None, note, None)
    for kind in ("plain", "chunks"):
        note = f"{speed[kind] / GIB:.2f} by {speed['nginx'] / GIB:.2f} GiB/s; {spread(turns, kind, 'nginx', 'bytes_s')}; the cores rest {rest[kind] * 100:.0f} by {rest['nginx'] * 100:.0f} % of the time"
        table.add("http", f"throughput, {how}, {kind}", "nginx sendfile", speed[kind] / speed["nginx"], faster, note, turns)
        note = f"{cpu[kind]:.3f} by {cpu['nginx']:.3f} s/GiB; {spread(turns, kind, 'nginx', 'cpu_gib')}"
        table.add("http", f"CPU per GiB, {how}, {kind}", "nginx sendfile", cpu[kind] / cpu["nginx"], cheaper, note, None)


def stalls(table, site, rounds):
    """The slowest small answers while a file comes from the disk. GETs by themselves, as the peer's are; what else
    pristine answers in runs of its own."""
    def during(which, what, cold):
        with Wire() as wire, site.start(wire, which) as process:
            port, _ = site.path(which)
            helpers = {}
            # Small and from memory with both; and a boot script, which waits for the disk.
            path = {"get": "/small" if which == "nginx" else "/nbp/autoexec.ipxe", "script": "/boot/script?mac=02:00:00:00:00:01"}[what]
            poke = [sys.executable, "-B", built("poke.py"), f"http://{wire.server_ip}:{port}{path}", 3]
            helpers["poke"] = Process("poke", poke, site.folder / "poke.log", wire.client)
            if what == "script":
                load = [built("dhcpload"), wire.client_ip, wire.server_ip, 50, 2]
                helpers["load"] = Process("dhcpload", load, site.folder / "load.log", wire.client)
            if cold:
                time.sleep(0.2)
                drop_from_cache(site.folder, process)
                site.drain(wire, process, which, 8, 60, once=True)
            said = {}
            for name, helper in helpers.items():
                helper.wait(60)
                said[name] = json.loads(helper.log.read_text())
                helper.stop()
                helper.log.unlink()
        found = {what: said["poke"]["max_ms"]}
        if "load" in said:
            found |= {"offer": said["load"]["offer"]["max_ms"], "ack": said["load"]["ack"]["max_ms"]}
        return found

    ways = [(which, what, cold) for which in ("chunks", "plain", "nginx") for what in ("get", "script") for cold in (False, True)]
    ways = [way for way in ways if way[:2] != ("nginx", "script")]
    turns = in_turns(rounds, {way: lambda way=way: during(*way) for way in ways})
    worst = {}
    for (which, _, cold), runs in turns.items():
        worst.setdefault((which, cold), {}).update({k: median([r[k] for r in runs]) for k in runs[0]})
    figures = {f"{which}, {'cold' if cold else 'idle'}": found for (which, cold), found in worst.items()}
    theirs = worst["nginx", True]
    for kind in ("plain", "chunks"):
        mine, idle_ = worst[kind, True], worst[kind, False]
        note = f"{mine['get']:.1f} ms, {idle_['get']:.1f} with nothing to do, nginx {theirs['get']:.1f}; "
        note += spread(turns, (kind, "get", True), ("nginx", "get", True), "get")
        table.add("http", f"slowest small GET while 8 read a cold file, {kind}", "nginx likewise", mine["get"] / theirs["get"], "<= 1", note, figures)
        disk = ", which waits for the same disk"
        for half, what, why in (("script", "boot script", disk), ("offer", "OFFER", ""), ("ack", "ACK", disk)):
            note = f"{mine[half]:.1f} by {idle_[half]:.1f} ms{why}"
            table.add("http", f"slowest {what} meanwhile, {kind}", "itself with nothing to do", mine[half] / idle_[half], None, note, None)
