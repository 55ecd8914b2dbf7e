"""What valkey-py can do with a server; checks.py says how it is told."""

from __future__ import annotations

import checks as t
import valkey
from common import Checks
from valkey._cache import _LocalCache

if __name__ == "__main__":
    client = Checks(valkey, valkey.Valkey)
    client.run()
    cache = _LocalCache()
    caching = {"cache_enabled": True, "client_cache": cache}
    with t.check("client-side caching"), client.open(3) as writer, client.open(3, **caching) as reader:
        key = f"{t.PREFIX}cached"
        for value in ("1", "2"):
            writer.set(key, value)
            t.eventually(lambda value=value: t.same(reader.get(key), value))
            t.same(cache.get(("GET", key)), value)
    client.reconnect()
