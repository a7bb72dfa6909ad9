"""Asks for something small over and over and tells the slowest answer: poke.py URL SECONDS HOLDS. Prints JSON, in ms.

An answer that isn't 200 or doesn't hold the text HOLDS is an error. {high} and {low} in URL are the bytes of a number, another each time
(format specifications allowed).
"""

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

url, seconds, holds = urlsplit(sys.argv[1]), float(sys.argv[2]), sys.argv[3].encode()
path = url.path + ("?" + url.query if url.query else "")
waits, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    began = time.monotonic()
    # A connection each: a machine's boot loader has no other.
    conn = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=60)
    conn.request("GET", path.format(high=len(waits) >> 8, low=len(waits) & 255))
    answer = conn.getresponse()
    body = answer.read()
    conn.close()
    if answer.status != 200 or holds not in body:
        sys.exit(f"poke: {answer.status}, without {holds!r}: {body[:200]!r}")
    waits.append((time.monotonic() - began) * 1000)
    time.sleep(max(0.0, 0.01 - (time.monotonic() - began)))
print(json.dumps({"asked": len(waits), "max_ms": max(waits)}))
