from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench import process
from bench.process import Cpu, Memory, Process, ProcessError


def test_processor_time_of_the_machine_is_all_but_idle_time() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    text = "cpu  100 20 30 9999 8888 4 5 6 70 80\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert process.busy_s(text) == (100 + 20 + 30 + 4 + 5 + 6) / ticks
    assert process.busy_s() > 0


def test_processor_time_and_memory_of_a_process() -> None:
    spent = process.cpu(os.getpid())
    assert spent.user > 0
    memory = process.memory(os.getpid())
    assert 0 < memory.pss <= memory.rss
    assert Cpu(3.0, 2.0) - Cpu(1.0, 0.5) + Cpu(0.0, 1.0) == Cpu(2.0, 2.5)
    assert Memory(1, 2) + Memory(3, 4) == Memory(4, 6)


def test_a_program_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program = Process([sys.executable, "-c", "raise SystemExit('no such option')"], process.free_port(), tmp_path)
    with pytest.raises(ProcessError, match="did not answer PING on port") as caught, program:
        pass
    assert "no such option" in str(caught.value)


def test_a_server_under_test_exports_nothing_that_the_bench_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://192.0.2.1:4317")
    monkeypatch.setenv("SIDECAR_WORKERS", "3")
    code = "import os; raise SystemExit(','.join(n for n in os.environ if n.startswith(('OTEL', 'SIDECAR'))) or 'none')"
    environment = {"OTEL_TRACES_SAMPLER": "always_on"}
    program = Process([sys.executable, "-c", code], process.free_port(), tmp_path, environment)
    with pytest.raises(ProcessError) as caught, program:
        pass
    assert str(caught.value).splitlines()[-1] == "OTEL_TRACES_SAMPLER"
