"""Machines that fetch one root at the same time, each on a thread and a connection of its own: storm.py. Reads from standard input
{"server", "port", "machines": [{"address", "path"}], "wait": seconds it says it would wait, or null}; prints when each had its last byte, in
seconds.

A machine that is told to come again later (503, Retry-After) does, as `init` would.
"""

import json
import socket
import sys
import threading
import time

order = json.load(sys.stdin)
began = time.monotonic()
finished, wrong = [], []


def head_of(sock):
    head = b""
    while b"\r\n\r\n" not in head:
        # Past the head nothing is read here.
        seen = sock.recv(4096, socket.MSG_PEEK)
        if not seen:
            raise OSError("the server closed the connection")
        stop = (head + seen).find(b"\r\n\r\n")
        take = len(seen) if stop < 0 else stop + 4 - len(head)
        head += sock.recv(take)
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split()[1]), fields


def machine(address, path):
    prefer = f"Prefer: wait={order['wait']}\r\n" if order["wait"] else ""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n{prefer}\r\n".encode()
    buffer = bytearray(1 << 18)
    try:
        while True:
            with socket.create_connection((order["server"], order["port"]), 300, (address, 0)) as sock:
                sock.sendall(request)
                status, fields = head_of(sock)
                if status == 503:
                    time.sleep(int(fields.get("retry-after", "1")))
                    continue
                if status != 200:
                    raise OSError(f"status {status}")
                left = int(fields["content-length"])
                while left > 0:
                    got = sock.recv_into(buffer, min(left, len(buffer)))
                    if got == 0:
                        raise OSError(f"{left} bytes short")
                    left -= got
                finished.append(time.monotonic() - began)
                return
    except OSError as why:
        wrong.append(str(why))


threads = [threading.Thread(target=machine, kwargs=one, daemon=True) for one in order["machines"]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(600)
json.dump({"finished": sorted(finished), "wrong": wrong}, sys.stdout)
