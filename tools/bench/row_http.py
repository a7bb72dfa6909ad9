"""A root over HTTP: throughput, and processor time of the server for a GiB; as a plain file and in chunks; from the page cache and
from the disk; to one client and to 64.

The clients throw away what they get inside the kernel (drain.c). The peer is nginx with sendfile and tcp_nopush, a worker a
core, and without a log; where a disk is read, it or it with threads and read_ahead, whichever is faster. Both serve the same bytes over a
veth pair.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from content import drop_from_cache, imported, into_cache, plain, squashfs
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


PEERS = {"nginx": "", "nginx, threads": "aio threads; read_ahead 1m;"}
SMALL = 'location = /small { return 200 "#!ipxe\\n"; }'


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
        # What changed within the last two seconds is hashed each time it is sent.
        time.sleep(3)

    def start(self, wire, which):
        if which in PEERS:
            return nginx(wire, self.folder, more=PEERS[which], server=SMALL)
        if which == "floor":
            args = [built("floor"), wire.server_ip, 8080, self.folder / "www/root"]
            process = Process("floor", args, self.folder / "floor.log", wire.server)
            wait_for("floor does not listen", lambda: ":8080" in wire.server.run("ss", "-Hltn"), 20, process)
            return process
        return Service(wire.server, self.folder / which, OPEN_BOUNDS)

    def path(self, which):
        return (8080, "/root") if which in (*PEERS, "floor") else (80, f"/blobs/{self.digest}")

    def drain(self, wire, process, which, clients, seconds, once=""):
        port, path = self.path(which)
        before, machine = process.cpu(), idle()
        args = [built("drain"), wire.server_ip, port, path, clients, seconds, *([once] if once else [])]
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
    into_cache(site.folder)
    for clients, faster, cheaper in ((1, ">= 1.5", "<= 0.8"), (64, ">= 1", "<= 1")):
        def once(which):
            with Wire() as wire, site.start(wire, which) as process:
                # The first answer opens the files and finds them in the page cache.
                site.drain(wire, process, which, 1, 60, "once")
                return site.drain(wire, process, which, clients, seconds)
        turns = in_turns(rounds, {k: lambda k=k: once(k) for k in (*kinds, "floor")})
        tell(table, f"{clients} client{'s' if clients > 1 else ''}, page cache", turns, faster, cheaper)
    size = site.root.stat().st_size
    for clients, mode, what in ((1, "once", "1 client, cold"), (64, f"parts:{size}", "64 clients, each a part of a cold file")):
        def cold(which):
            with Wire() as wire, site.start(wire, which) as process:
                # A service hashes what it sends the first time.
                site.drain(wire, process, which, 1, 60, "once")
                drop_from_cache(site.folder, process)
                return site.drain(wire, process, which, clients, 120, mode)
        # A second or so each.
        turns = in_turns(2 * rounds, {k: lambda k=k: cold(k) for k in ("plain", "chunks", *PEERS)})
        tell(table, what, turns, ">= 1", "<= 1")
    stalls(table, site, rounds)


def tell(table, how, turns, faster, cheaper):
    speed = {k: median([r["bytes_s"] for r in runs]) for k, runs in turns.items()}
    cpu, rest = ({k: median([r[what] for r in runs]) for k, runs in turns.items()} for what in ("cpu_gib", "idle"))
    peer = max((k for k in turns if k in PEERS), key=speed.get)
    if "floor" in turns and how.startswith("1 "):
        # One connection keeps one core busy. What the loop itself gets through it is no measure: it sleeps between.
        note = f"{cpu['floor']:.3f} by {cpu[peer]:.3f} s/GiB: a core that does nothing else gives {1 / cpu['floor'] / (speed[peer] / GIB):.2f} times nginx's throughput"
        table.add("http", f"CPU per GiB, {how}, a bare loop of sendfile", peer, cpu["floor"] / cpu[peer], None, note, None)
    elif "floor" in turns:
        note = f"{speed['floor'] / GIB:.2f} by {speed[peer] / GIB:.2f} GiB/s: a thread for each connection that does nothing else"
        table.add("http", f"throughput, {how}, bare loops of sendfile", peer, speed["floor"] / speed[peer], None, note, None)
    for kind in ("plain", "chunks"):
        note = f"{speed[kind] / GIB:.2f} by {speed[peer] / GIB:.2f} GiB/s; {spread(turns, kind, peer, 'bytes_s')}; the cores rest {rest[kind] * 100:.0f} by {rest[peer] * 100:.0f} % of the time"
        table.add("http", f"throughput, {how}, {kind}", peer, speed[kind] / speed[peer], faster, note, turns)
        note = f"{cpu[kind]:.3f} by {cpu[peer]:.3f} s/GiB; {spread(turns, kind, peer, 'cpu_gib')}"
        table.add("http", f"CPU per GiB, {how}, {kind}", peer, cpu[kind] / cpu[peer], cheaper, note, None)


# What is asked for while a file comes from the disk: something small that is in memory, and a boot script, of another machine each time.
ASKED = {
    "get": ("/nbp/autoexec.ipxe", "#!ipxe"),
    "script": ("/boot/script?mac=02:30:00:00:{high:02x}:{low:02x}&platform=efi&buildarch=x86_64", "pristine.boot="),
}


def stalls(table, site, rounds):
    """The slowest answers while 8 clients read a file from the disk, and the slowest fdatasync: an ACK and a script wait for one or two."""
    for which in ("plain", "chunks"):
        with Wire() as wire, site.start(wire, which) as process:
            process.command("default", "web:1")

    def during(which, what, cold):
        with Wire() as wire, site.start(wire, which) as process:
            port, _ = site.path(which)
            helpers = {}
            if what == "sync":
                helpers["poke"] = Process("sync", [sys.executable, "-B", built("sync.py"), site.folder / "synced", 3], site.folder / "poke.log")
            else:
                path, holds = ("/small", "#!ipxe") if which in PEERS else ASKED[what]
                poke = [sys.executable, "-B", built("poke.py"), f"http://{wire.server_ip}:{port}{path}", 3, holds]
                helpers["poke"] = Process("poke", poke, site.folder / "poke.log", wire.client)
            if what == "script":
                load = [built("dhcpload"), wire.client_ip, wire.server_ip, 50, 2]
                helpers["load"] = Process("dhcpload", load, site.folder / "load.log", wire.client)
            if cold:
                time.sleep(0.2)
                drop_from_cache(site.folder, process)
                site.drain(wire, process, which, 8, 60, "once")
            said = {}
            for name, helper in helpers.items():
                if helper.wait(60) != 0:
                    raise Failed(f"http: {name} beside {which}: {helper.last_words()}")
                said[name] = json.loads(helper.log.read_text())
                helper.stop()
                helper.log.unlink()
        found = {what: said["poke"]["max_ms"]}
        if "load" in said:
            found |= {"offer": said["load"]["offer"]["max_ms"], "ack": said["load"]["ack"]["max_ms"]}
        return found

    ways = [(which, what, cold) for which in ("chunks", "plain") for what in ("get", "script", "sync") for cold in (False, True)]
    ways += [(peer, "get", True) for peer in PEERS]
    turns = in_turns(rounds, {way: lambda way=way: during(*way) for way in ways})
    worst = {}
    for (which, _, cold), runs in turns.items():
        worst.setdefault((which, cold), {}).update({k: median([r[k] for r in runs]) for k in runs[0]})
    figures = {f"{which}, {what}, {'cold' if cold else 'idle'}": runs for (which, what, cold), runs in turns.items()}
    peer = min(PEERS, key=lambda peer: worst[peer, True]["get"])
    theirs = worst[peer, True]["get"]
    for kind in ("plain", "chunks"):
        mine, rest = worst[kind, True], worst[kind, False]
        note = lambda half: f"{mine[half]:.1f} ms, {rest[half]:.1f} with nothing to do"
        what = f"while 8 read a cold file, {kind}"
        also = f"; nginx's GET {theirs:.1f}; {spread(turns, (kind, 'get', True), (peer, 'get', True), 'get')}"
        table.add("http", f"slowest small GET {what}", f"{peer}, likewise", mine["get"] / theirs, "<= 1", note("get") + also, figures)
        table.add("http", f"slowest OFFER {what}", f"GET of {peer}", mine["offer"] / theirs, "<= 1", note("offer"), None)
        for half in ("script", "ack"):
            also = f"; fdatasync {mine['sync']:.1f} and {rest['sync']:.1f}"
            table.add("http", f"slowest {half if half == 'script' else 'ACK'} {what}", "two fdatasyncs", mine[half] / (2 * mine["sync"]), "<= 1", note(half) + also, None)
