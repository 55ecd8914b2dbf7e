from __future__ import annotations

import pytest

from sidecar.engine.restart import RestartPolicy, parse_info

PRIMARY = {"role": "master", "connected_slaves": "0", "repl_backlog_active": "0"}


def test_an_engine_alone_may_come_back_empty() -> None:
    policy = RestartPolicy(lambda _appending, _changes: "persistence is off")
    policy.saw_info(PRIMARY)
    assert policy.refusal() is None


def test_an_empty_primary_must_not_come_back_to_its_replicas() -> None:
    policy = RestartPolicy(lambda _appending, _changes: "persistence is off")
    policy.saw_info({**PRIMARY, "connected_slaves": "2"})
    refusal = policy.refusal()
    assert refusal is not None
    assert "2 replicas are attached" in refusal


def test_a_replica_that_is_away_for_a_moment_counts() -> None:
    policy = RestartPolicy(lambda _appending, _changes: "persistence is off")
    policy.saw_info({**PRIMARY, "repl_backlog_active": "1"})
    assert policy.refusal() is not None


def test_replicas_that_are_only_configured_count() -> None:
    assert RestartPolicy(lambda _appending, _changes: "persistence is off", min_replicas=1).refusal() is not None


def test_an_engine_that_saves_comes_back_with_its_data() -> None:
    policy = RestartPolicy(lambda _appending, _changes: None)
    policy.saw_info({**PRIMARY, "connected_slaves": "2"})
    assert policy.refusal() is None


def test_a_replica_itself_gets_its_data_again_from_its_primary() -> None:
    policy = RestartPolicy(lambda _appending, _changes: "persistence is off")
    policy.saw_info({"role": "slave", "connected_slaves": "0", "repl_backlog_active": "1"})
    assert policy.refusal() is None


def test_the_role_is_known_from_the_last_look() -> None:
    policy = RestartPolicy(lambda _appending, _changes: None)
    assert not policy.seen  # it is what the configuration says
    policy.saw_info({"role": "slave", "master_host": "::1", "master_port": "7001"})
    assert policy.seen
    assert policy.primary == ("::1", "7001")
    policy.saw_info(PRIMARY)
    assert policy.primary is None


def test_a_replica_may_come_back_to_its_own_replicas() -> None:
    policy = RestartPolicy(lambda _appending, _changes: "persistence is off")
    policy.saw_info({"role": "slave", "connected_slaves": "1", "repl_backlog_active": "1"})
    assert policy.refusal() is None  # they wait until it has its data from its primary


def test_files_that_were_moved_at_run_time_are_not_found_again() -> None:
    policy = RestartPolicy(lambda _appending, _changes: None)
    policy.saw_info({**PRIMARY, "connected_slaves": "1"})
    policy.saw_files({"dir": "/data", "dbfilename": "dump.rdb"})
    assert policy.refusal() is None
    policy.saw_files({"dir": "/other", "dbfilename": "dump.rdb"})
    assert "its files were moved" in str(policy.refusal())
    policy.new_life()
    assert policy.refusal() is None


@pytest.mark.parametrize(("aof", "status", "appending"), [("1", "ok", True), ("1", "err", False), ("0", "ok", False)])
def test_what_was_not_appended_is_lost(aof: str, status: str, appending: bool) -> None:
    policy = RestartPolicy(lambda appending, _changes: None if appending else "lost")
    policy.saw_info({**PRIMARY, "connected_slaves": "1", "aof_enabled": aof, "aof_last_write_status": status})
    assert (policy.refusal() is None) == appending


def test_changes_since_the_last_snapshot_are_told() -> None:
    policy = RestartPolicy(lambda _appending, changes: f"{changes} changes are missing")
    policy.saw_info({**PRIMARY, "connected_slaves": "1", "rdb_changes_since_last_save": "7"})
    refusal = "7 changes are missing and 1 replica is attached: a restart would take from them what they have"
    assert policy.refusal() == refusal


def test_info_is_read_into_names_and_values() -> None:
    assert parse_info("# Replication\r\nrole:master\r\nslave0:ip=::1,port=1\r\n") == {
        "role": "master",
        "slave0": "ip=::1,port=1",
    }
