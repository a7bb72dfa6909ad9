"""Asks for something small over and over and tells the slowest answer: poke.py URL SECONDS [EVERY_MS]. Prints JSON, in ms."""

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

url, seconds = urlsplit(sys.argv[1]), float(sys.argv[2])
every = float(sys.argv[3]) / 1000 if len(sys.argv) > 3 else 0.01
waits, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    began = time.monotonic()
    # A connection each: a machine's boot loader has no other.
    conn = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=60)
    conn.request("GET", url.path + ("?" + url.query if url.query else ""))
    conn.getresponse().read()
    conn.close()
    waits.append((time.monotonic() - began) * 1000)
    time.sleep(max(0.0, every - (time.monotonic() - began)))
waits.sort()
print(json.dumps({"asked": len(waits), "p50_ms": waits[len(waits) // 2], "p99_ms": waits[int(len(waits) * 0.99)], "max_ms": waits[-1]}))
