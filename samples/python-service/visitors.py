"""Visitors of the shop: ten made-up requests a second. `python visitors.py [URL [SECONDS]]`"""

from __future__ import annotations

import random
import sys
import time
import urllib.error
import urllib.request

_PAUSE_S = 0.1
_REQUESTS = {"GET /products/": 70, "GET /products": 15, "POST /orders/": 12, "POST /reviews/": 3}
"""Of a hundred. After a slash at the end comes a product's number."""


def visit(shop: str) -> None:
    (request,) = random.choices(list(_REQUESTS), list(_REQUESTS.values()))
    method, path = request.split()
    if path.endswith("/"):
        path += str(random.randrange(40))
    try:
        urllib.request.urlopen(urllib.request.Request(shop + path, method=method), timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()  # reviews fail
    except OSError as error:
        sys.stderr.write(f"{shop} cannot be reached: {error}\n")
        time.sleep(1)


def main() -> None:
    shop = sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://localhost:8000"
    end = time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else "inf")
    while time.monotonic() < end:
        visit(shop)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main()
