"""The engine, the real Valkey, as the supervisor sees it. Nothing in here touches a client's bytes."""
