from __future__ import annotations

from typing import Any

from telemetry.recordexporters import Record, RecordExporters


def _record(number: int) -> dict[str, Any]:
    return {"message": str(number)}


def test_every_exporter_gets_every_record_and_those_from_before_it() -> None:
    exporters = RecordExporters()
    one: list[Record] = []
    other: list[Record] = []
    exporters.deliver(_record(1))
    exporters.add(one.append)
    exporters.deliver(_record(2))
    exporters.add(other.append)
    exporters.deliver(_record(3))
    assert one == other == [_record(1), _record(2), _record(3)]


def test_at_most_the_last_thousand_are_kept() -> None:
    exporters = RecordExporters()
    for number in range(1_200):
        exporters.deliver(_record(number))
    got: list[Record] = []
    exporters.add(got.append)
    assert got == [_record(number) for number in range(200, 1_200)]


def test_nothing_is_kept_when_no_exporter_is_expected_any_more() -> None:
    exporters = RecordExporters()
    exporters.deliver(_record(1))
    exporters.forget_kept()
    exporters.deliver(_record(2))
    got: list[Record] = []
    exporters.add(got.append)
    exporters.deliver(_record(3))
    assert got == [_record(3)]


def test_an_exporter_that_was_removed_gets_nothing() -> None:
    exporters = RecordExporters()
    got: list[Record] = []
    exporters.remove(got.append)
    exporters.add(got.append)
    exporters.remove(got.append)
    exporters.deliver(_record(1))
    assert got == []


def test_an_exporter_that_fails_costs_nobody_else_the_record() -> None:
    def broken(record: Record) -> None:
        raise RuntimeError(record["message"])

    exporters = RecordExporters()
    got: list[Record] = []
    exporters.add(broken)
    exporters.add(got.append)
    exporters.deliver(_record(1))
    assert got == [_record(1)]


def test_an_exporter_may_log_and_is_given_its_own_record() -> None:
    exporters = RecordExporters()
    got: list[Record] = []

    def talkative(record: Record) -> None:
        got.append(record)
        if len(got) == 1:
            exporters.deliver(_record(2))

    exporters.add(talkative)
    exporters.deliver(_record(1))
    assert got == [_record(1), _record(2)]
