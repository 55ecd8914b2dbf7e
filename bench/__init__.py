"""Measures this server against its peers, and with and without telemetry, in one run: `make bench`.

Owns the comparison and what it prints. Never part of the product: nothing in sidecar or telemetry imports it. It talks
to loopback addresses only, on free ports, and stops what it started by the process ids it got.
"""
