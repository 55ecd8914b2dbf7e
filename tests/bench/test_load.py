from __future__ import annotations

from pathlib import Path

import pytest

from bench import load
from bench.load import Cell, LoadError, Measured

# What redis-benchmark 7.0.15 printed, with fewer steps.
_OUTPUT = """GET bench:small: rps=0.0 (overall: 0.0) avg_msec=-nan (overall: -nan)\r\
====== GET bench:small ======
  20000 requests completed in 0.65 seconds
  50 parallel clients

Latency by percentile distribution:
0.000% <= 0.311 milliseconds (cumulative count 1)
50.000% <= 1.031 milliseconds (cumulative count 10057)
99.805% <= 3.887 milliseconds (cumulative count 19961)
99.902% <= 4.063 milliseconds (cumulative count 19981)
99.951% <= 4.223 milliseconds (cumulative count 19991)
100.000% <= 4.327 milliseconds (cumulative count 20000)

Cumulative distribution of latencies:
99.915% <= 9.103 milliseconds (cumulative count 19983)
100.000% <= 9.103 milliseconds (cumulative count 20000)

Summary:
  throughput summary: 30627.87 requests per second
  latency summary (msec):
          avg       min       p50       p95       p99       max
        1.056     0.304     1.031     1.511     1.759     4.327

"""
_MEASURED = Measured(20000, 30627.87, pytest.approx(1.031e-3), pytest.approx(1.759e-3), pytest.approx(4.063e-3))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program named redis-benchmark, to be written; no other is on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "redis-benchmark"
    path.touch(mode=0o755)
    return path


def test_the_figures_of_a_run_are_read() -> None:
    assert load.read(_OUTPUT, 20000) == _MEASURED


def test_p999_of_a_short_run_is_its_slowest_request() -> None:
    short = "\n".join(line for line in _OUTPUT.splitlines() if not line.startswith("99.9"))
    found = load.read(short, 500)
    assert found is not None
    assert found.p999_s == pytest.approx(4.327e-3)


def test_a_run_of_no_time_is_a_measurement_all_the_same() -> None:
    found = load.read(_OUTPUT.replace("30627.87", "inf"), 1)
    assert found is not None
    assert found.rate == float("inf")


@pytest.mark.parametrize("missing", ["throughput summary", "latency summary", "Latency by percentile"])
def test_an_output_without_all_figures_is_no_measurement(missing: str) -> None:
    begin = _OUTPUT.index(missing)
    assert load.read(_OUTPUT[:begin] + _OUTPUT[begin:].partition("\n\n")[2], 20000) is None


def test_arguments_say_the_kind_of_load_and_the_command_comes_last() -> None:
    told = load.arguments(Cell("ZADD", 50, 16), 7000, 1234, None)
    pairs = dict(zip(told[:-4:2], told[1:-4:2], strict=True))
    assert pairs == {"-h": "127.0.0.1", "-p": "7000", "-n": "1234", "-c": "50", "-P": "16", "-r": "10000"}
    assert told[-4:] == ["ZADD", "bench:sorted", "__rand_int__", "member:__rand_int__"]


def test_tls_verifies_the_certificate(tmp_path: Path) -> None:
    told = load.arguments(Cell("GET", 50, 1, tls=True), 7000, 1, tmp_path / "bench.crt")
    assert told[told.index("--tls") + 1 :][:2] == ["--cacert", str(tmp_path / "bench.crt")]
    assert "--tls" not in load.arguments(Cell("GET", 50, 1), 7000, 1, tmp_path / "bench.crt")


def test_a_run_gives_what_the_program_printed(program: Path) -> None:
    program.write_text(f"#!/bin/sh\n/bin/cat <<'EOF'\n{_OUTPUT}EOF\n")
    assert load.run(Cell("GET", 50, 1), 7000, 20000) == _MEASURED


def test_a_run_that_failed_is_an_error_with_the_servers_words(program: Path) -> None:
    program.write_text(f"#!/bin/sh\n/bin/cat <<'EOF'\n{_OUTPUT}EOF\necho 'Error from server: LOADING' >&2\nexit 1\n")
    with pytest.raises(LoadError, match=r"^GET c50 P1 on port 7000: Error from server: LOADING$"):
        load.run(Cell("GET", 50, 1), 7000, 20000)


def test_without_the_program_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match="apt-get install redis-tools"):
        load.program()


def test_cells_have_names_that_tell_them_apart() -> None:
    cells = load.cells(["GET", "SET"], [1, 50], [1, 16]) + load.cells(["GET"], [1], [1], tls=True)
    names = [cell.name for cell in cells]
    assert len(set(names)) == 9
    assert names[0] == "GET c1 P1"
    assert names[-1] == "GET c1 P1 TLS"
