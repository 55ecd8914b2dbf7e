"""Owns the question how many CPUs this process may use: affinity and the CPU quota of cgroups, version 1 and 2.
Never changes either.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

_WORKERS_MAX: Final = 8


def default_workers(cpus: float | None = None) -> int:
    """Workers for `cpus` CPUs (those we may use): one CPU is the engine's; at least 1, at most 8."""
    usable = available_cpus() if cpus is None else cpus
    return max(1, min(_WORKERS_MAX, int(usable) - 1))


def available_cpus(root: Path = Path("/")) -> float:
    """CPUs that the scheduler gives us, a fraction where a quota says so. `root` is where /proc and /sys are."""
    affinity = float(len(os.sched_getaffinity(0)))
    return min([affinity, *_quotas(root)])


def _quotas(root: Path) -> list[float]:
    """Every limit that applies: a cgroup is also bound by the limits of the groups around it."""
    mounted = root / "sys/fs/cgroup"
    quotas: list[float] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # In a container, the path is either `/` or one that only the host can see; the mount's top is ours then.
        groups = [PurePosixPath(path.lstrip("/")), *PurePosixPath(path.lstrip("/")).parents]
        if hierarchy == "0" and not controllers:
            found = [_quota_v2(mounted / group) for group in groups]
        elif "cpu" in controllers.split(","):
            names = dict.fromkeys((controllers, "cpu"))
            found = [_quota_v1(mounted / name / group) for group in groups for name in names]
        else:
            continue
        quotas += [quota for quota in found if quota is not None]
    return quotas


def _quota_v2(group: Path) -> float | None:
    words = _read(group / "cpu.max").split()
    return _ratio(*words) if len(words) == 2 else None


def _quota_v1(group: Path) -> float | None:
    return _ratio(_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """None for no limit, which is "max" or -1."""
    if not quota.isdigit() or not period.isdigit() or int(quota) == 0 or int(period) == 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
