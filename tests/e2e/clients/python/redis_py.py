"""What redis-py can do with a server; checks.py says how it is told."""

from __future__ import annotations

import checks as t
import redis
from common import Checks

if __name__ == "__main__":
    client = Checks(redis, redis.Redis)
    client.run()
    t.not_offered("client-side caching")  # it asks the server's version, and wants Redis 7.4 or later
    client.reconnect()
