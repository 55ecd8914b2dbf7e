"""valkey-sidecar: a real Valkey behind an instrumented front."""

from __future__ import annotations

__version__ = "0.1.0"
