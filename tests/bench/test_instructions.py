"""The gate on instructions per command: what it reads from Callgrind, and when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import instructions
from bench.counted_path import CASES, COMMANDS
from bench.instructions import FIGURES, OTHER_TOLERANCE, TOLERANCE, Count, Figures, GateError, judge, parse

HERE = {"machine": "x86_64", "compiler": "gcc 12.2.0"}
RECORDED = Figures(HERE, {"get p1": Count(1000, 6.25)})

# One part as Callgrind 3.19 writes it: the turn calls the relay, which makes two system calls a command; so does a
# client, whose instructions are not counted.
PART = f"""\
# callgrind format
version: 1
part: 1
desc: Trigger: Client Request: get p1, spans 1 %
positions: line
events: Ir sysCount sysTime
summary: {1500 * COMMANDS} {3 * COMMANDS} 99

fl=(1) socketmodule.c
fn=(7) sock_sendall
cfn=(8) send
calls={COMMANDS} 28
330 0 {COMMANDS} 50

ob=(2) build/bench/counted_loop.so
fn=(436) __pyx_pw_12counted_loop_4Loop_3turn
4035 1024
cob=(29) sidecar/relay/channel.so
cfn=(438) __pyx_pw_dispatch
calls=1024 14846
* {1490 * COMMANDS} {2 * COMMANDS} 49
* 1024
cfn=(439)
calls=1024 9
+3 2048

fn=(438)
17 512
cfn=(8)
calls={2 * COMMANDS} 28
+2 4096 {2 * COMMANDS} 49

totals: {1500 * COMMANDS} {3 * COMMANDS} 99
"""


def counted(
    count: float, system_calls: float = 6.25, name: str = "get p1", toolchain: dict[str, str] | None = None
) -> Figures:
    return Figures(toolchain or HERE, {name: Count(count, system_calls)})


def test_instructions_are_all_and_system_calls_those_of_the_turns() -> None:
    assert parse(PART) == ("get p1, spans 1 %", Count(1500, 2))


def test_a_turn_that_was_named_before_is_known_by_its_number() -> None:
    earlier = "fn=(1) main\ncfn=(436) __pyx_pw_12counted_loop_4Loop_3turn\ncalls=1 2\n3 0 5 6\n\nob=(2)"
    text = PART.replace("ob=(2)", earlier, 1).replace(
        "fn=(436) __pyx_pw_12counted_loop_4Loop_3turn\n4035", "fn=(436)\n4035"
    )
    assert parse(text)[1].system_calls == 2


@pytest.mark.parametrize("lacks", ["desc: Trigger: Client Request", "totals:", "sysCount", "Loop_3turn"])
def test_output_of_another_form_is_no_figure(lacks: str) -> None:
    with pytest.raises(GateError, match=r"not what it was|names no turn"):
        parse(PART.replace(lacks, "something else"))


def test_more_instructions_than_recorded_fail_with_both_figures() -> None:
    verdict = judge(RECORDED, counted(1100))
    assert verdict.failures == [
        "get p1: 1100 instructions per command, 1000 are recorded: 10.0% more, where 2.0% are allowed"
    ]
    assert not verdict.requests


@pytest.mark.parametrize("change", [TOLERANCE, -TOLERANCE, 0.001])
def test_what_the_tolerance_allows_passes_without_a_word(change: float) -> None:
    verdict = judge(RECORDED, counted(1000 * (1 + change * 0.99)))
    assert not verdict.failures
    assert not verdict.requests
    assert not verdict.note


def test_fewer_instructions_are_asked_to_be_recorded() -> None:
    verdict = judge(RECORDED, counted(900))
    assert not verdict.failures
    assert verdict.requests == ["get p1: 900 instructions per command, 1000 are recorded: 10.0% less"]


def test_one_more_system_call_in_a_hundred_commands_fails() -> None:
    verdict = judge(RECORDED, counted(1000, 6.25 * 1.01))
    assert verdict.failures == [
        "get p1: 6.312 system calls per command, 6.250 are recorded: 1.0% more, where 0.5% are allowed"
    ]


def test_another_toolchain_has_more_room_and_it_is_said() -> None:
    verdict = judge(RECORDED, counted(1000 * (1 + OTHER_TOLERANCE * 0.9), toolchain={**HERE, "compiler": "gcc 14.2.0"}))
    assert not verdict.failures
    assert "compiler gcc 12.2.0, here gcc 14.2.0: 15% are allowed, and not 2%" in verdict.note


def test_another_toolchain_is_not_without_limit() -> None:
    other = {**HERE, "compiler": "gcc 14.2.0"}
    assert judge(RECORDED, counted(1000 * (1 + OTHER_TOLERANCE * 1.1), toolchain=other)).failures
    assert judge(RECORDED, counted(1000, 7.25, toolchain=other)).failures


def test_another_kind_of_machine_is_held_to_system_calls_alone() -> None:
    other = {**HERE, "machine": "aarch64"}
    verdict = judge(RECORDED, counted(5000, toolchain=other))
    assert not verdict.failures
    assert verdict.note.endswith("machine x86_64, here aarch64: only system calls count")
    assert judge(RECORDED, counted(1000, 7.25, toolchain=other)).failures


def test_another_toolchain_that_makes_faster_code_records_nothing() -> None:
    assert not judge(RECORDED, counted(500, toolchain={**HERE, "compiler": "gcc 14.2.0"})).requests


def test_cases_that_are_not_recorded_or_not_counted_fail() -> None:
    verdict = judge(RECORDED, counted(1000, name="set p1"))
    assert verdict.failures == ["get p1: it is not counted any more", "set p1: it is not recorded"]


def test_every_case_is_recorded() -> None:
    assert Figures.read(FIGURES).counts.keys() == CASES.keys()


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    RECORDED.write(path)
    assert Figures.read(path) == RECORDED


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"toolchain": {}, "per_command": {"get p1": {"calls": 1}}}']
)
def test_a_file_without_figures_is_told_with_what_writes_it(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(GateError, match="make instructions"):
        Figures.read(path)


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def _recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = tmp_path / "instructions.json"
        RECORDED.write(self.path)
        monkeypatch.setattr(instructions, "FIGURES", self.path)

    def gate(self, monkeypatch: pytest.MonkeyPatch, found: Figures | GateError, *arguments: str) -> int:
        def count() -> Figures:
            if isinstance(found, GateError):
                raise found
            return found

        monkeypatch.setattr(instructions, "count", count)
        monkeypatch.setattr("sys.argv", ["instructions", *arguments])
        return instructions.main()

    def test_fails_and_says_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.gate(monkeypatch, counted(1100)) == 1
        told = capsys.readouterr().err
        assert "get p1: 1100 instructions per command, 1000 are recorded" in told
        assert "make instructions" in told
        assert "callgrind_annotate" in told

    def test_passes_and_asks_to_record_what_got_better(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.gate(monkeypatch, counted(900)) == 0
        assert "Please record it with `make instructions`" in capsys.readouterr().out

    def test_passes_with_its_table_alone(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.gate(monkeypatch, counted(1001)) == 0
        out, err = capsys.readouterr()
        assert not err
        assert "record it" not in out
        assert "get p1" in out

    def test_records_what_it_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.gate(monkeypatch, counted(1100), "--record") == 0
        assert Figures.read(self.path) == counted(1100)

    def test_says_why_nothing_was_counted(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.gate(monkeypatch, GateError("valgrind is missing (Debian: apt-get install valgrind)")) == 2
        assert capsys.readouterr().err == "make gate: valgrind is missing (Debian: apt-get install valgrind)\n"
