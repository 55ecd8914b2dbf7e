"""Telemetry of the server: what is counted, how it is merged, and how it is shown.

Owns names, totals, exposition and logs. Never imports `sidecar`, and imports nothing by itself: each
module is loaded by whoever needs it, because the start of the server waits for every import.
"""
