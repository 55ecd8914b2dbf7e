from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sidecar.conf import ConfigurationError
from sidecar.configuration import Configuration, is_ours
from sidecar.cpus import available_cpus, default_workers
from sidecar.listener_settings import LISTENER_DIRECTIVES, ListenerSettings, parse_listener_value
from sidecar.reference import help_text, settings_page
from sidecar.secret import SecretStr
from sidecar.settings import SETTINGS, SidecarSettings


def load(*argv: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"") -> Configuration:
    return Configuration.load(argv, environment or {}, lambda: stdin)


def refused(*argv: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"") -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(*argv, environment=environment, stdin=stdin)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    return message


def test_without_anything_the_defaults_hold() -> None:
    configuration = load()
    assert configuration.sidecar == SidecarSettings()
    assert configuration.listener == ListenerSettings()
    assert configuration.file is None
    assert configuration.file_text == ""
    assert configuration.extra_text == ""
    assert configuration.engine_directives == ()
    assert configuration.dir == str(Path.cwd())
    assert "sidecar-http-port" not in configuration.origins
    assert "port" not in configuration.origins


def test_protected_mode_has_a_default_of_ours_where_nobody_else_says(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("protected-mode yes\n")
    environment = {"SIDECAR_PROTECTED_MODE": "no"}
    assert load(environment=environment).listener.protected_mode is False
    assert load(str(conf), environment=environment).listener.protected_mode is True
    assert load("--protected-mode", "yes", environment=environment).listener.protected_mode is True


def test_an_argument_counts_before_the_environment_before_the_file_before_the_default(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("sidecar-http-port 1001\nsidecar-http-bind ::1\nsidecar-log-format json\n")
    environment = {"SIDECAR_HTTP_PORT": "1002", "SIDECAR_HTTP_BIND": "0.0.0.0"}
    configuration = load(str(conf), "--sidecar-http-port", "1003", environment=environment)
    assert configuration.sidecar.http_port == 1003
    assert configuration.sidecar.http_bind == ("0.0.0.0",)
    assert configuration.sidecar.log_format == "json"
    assert configuration.sidecar.ledger is True
    assert [str(configuration.origins[f"sidecar-{name}"]) for name in ("http-port", "http-bind", "log-format")] == [
        "argument --sidecar-http-port",
        "environment variable SIDECAR_HTTP_BIND",
        f"{conf}, line 3",
    ]
    assert "sidecar-http-port" in configuration.origins
    assert "sidecar-ledger" not in configuration.origins


def test_options_count_before_standard_input_before_the_file(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("port 1\ntimeout 1\nmaxclients 1\nsidecar-workers 1\nhz 1")
    stdin = b"port 2\ntimeout 2\nsidecar-workers 2\nhz 2\n"
    configuration = load(str(conf), "--port", "3", "--hz", "3", "-", stdin=stdin)
    listener = configuration.listener
    assert (listener.port, listener.timeout, listener.maxclients) == (3, 2, 1)
    assert configuration.sidecar.workers == configuration.workers == 2
    assert [directive.args for directive in configuration.engine_directives] == [("1",), ("2",), ("3",)]
    assert configuration.extra_text == 'port 2\ntimeout 2\nsidecar-workers 2\nhz 2\nport "3" \nhz "3" '
    assert configuration.file == str(conf)
    assert configuration.file_text == conf.read_text() + "\n"


def test_every_setting_is_read_from_each_source(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    values = {
        "engine-binary": ("/bin/x", "/bin/x"),
        "engine-user": ("bob", "bob"),
        "engine-password": ("pw", SecretStr("pw")),
        "engine-timeout": ("0.5", 0.5),
        "workers": ("64", 64),
        "http-port": ("80", 80),
        "http-bind": ('"* -::*"', ("*", "-::*")),
        "http-token": ("a.b-c==", SecretStr("a.b-c==")),
        "http-token-file": (str(token), str(token)),
        "protected-mode": ("no", False),
        "log-format": ("Console", "console"),
        "lanes": ("off", False),
        "home-timeout": ("0.5", 0.5),
        "client-query-buffer-limit": ("2mb", 2 << 20),
        "client-output-buffer-limit": ("64mb", 64 << 20),
        "maxmemory-clients": ("1gb", 1 << 30),
        "client-in-flight-limit": ("1000", 1000),
        "in-flight-limit": ("5000", 5000),
        "ledger": ("off", False),
        "slow-threshold": ("500us", 0.0005),
        "trace-context": ("off", False),
        "trace-exclude": ('"ping, client *"', ("PING", "CLIENT *")),
        "trace-keys": ("hash", "hash"),
        "trace-budget-remote": ("5", 5),
        "trace-budget-root": ("6", 6),
        "trace-budget-kept": ("0", 0),
        "lock-timeout": ("20", 20.0),
        "drain-timeout": ("3", 3.0),
    }
    assert values.keys() == {setting.name for setting in SETTINGS}
    for setting in SETTINGS:
        text, value = values[setting.name]
        conf = tmp_path / f"{setting.name}.conf"
        conf.write_text(f"{setting.conf_name} {text}\n")
        for configuration in (
            load(setting.argument, text.strip('"')),
            load(environment={setting.environment: text.strip('"')}),
            load(str(conf)),
        ):
            assert getattr(configuration.sidecar, setting.name.replace("-", "_")) == value
            assert configuration.engine_directives == ()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "70000"], 'port: "70000" (from argument --port) must be a number between 0 and 65535'),
        (["--port", "x\ny"], 'port: "x\\ny" (from argument --port) must be a number between 0 and 65535'),
        (["--port"], "port: the value is missing (from argument --port), it must be a number between 0 and 65535"),
        (
            ["--port", "1", "2"],
            "port: 2 values (from argument --port) where one is allowed: it must be a number between 0 and 65535",
        ),
        (["--port", "1", "--port", "x", "--port", "2"], 'port: "x" (from argument --port) must be '),
        (["--bind", *"abcdefghijklmnopq"], "(from argument --bind) must be at most 16 addresses"),
        (
            ["--unixsocketperm", "888"],
            'unixsocketperm: "888" (from argument --unixsocketperm) must be an octal number ',
        ),
        (["--protected-mode", "on"], 'protected-mode: "on" (from argument --protected-mode) must be yes or no'),
        (
            ["--maxclients", "0"],
            'maxclients: "0" (from argument --maxclients) must be a number between 1 and 4294967295',
        ),
        (["--supervised", "s6"], 'supervised: "s6" (from argument --supervised) must be one of upstart, systemd, '),
        (
            ["--sidecar-workers", "0"],
            'sidecar-workers: "0" (from argument --sidecar-workers) must be auto or a number ',
        ),
        (
            ["--sidecar-workers", "65"],
            '"65" (from argument --sidecar-workers) must be auto or a number between 1 and 64',
        ),
        (["--sidecar-ledger", "maybe"], 'sidecar-ledger: "maybe" (from argument --sidecar-ledger) must be on or off'),
        (
            ["--sidecar-engine-timeout", "-1"],
            '"-1" (from argument --sidecar-engine-timeout) must be a number of seconds',
        ),
        (["--sidecar-drain-timeout", "1e9"], "must be a number of seconds between 0 and 3600"),
        (["--sidecar-drain-timeout", "3601"], "must be a number of seconds between 0 and 3600"),
        (
            ["--sidecar-http-bind", ""],
            'sidecar-http-bind: "" (from argument --sidecar-http-bind) must be 1 to 16 addresses',
        ),
        (["--sidecar-http-port", "0"], "must be a number between 1 and 65535"),
        *(
            (
                ["--sidecar-client-query-buffer-limit", value],
                f'"{value}" (from argument --sidecar-client-query-buffer-limit) must be a number of bytes between 64kb',
            )
            for value in ("0", "63kb", "2gb", "1mib", "-1", "1.5mb", "much", "10%")
        ),
        (["--sidecar-maxmemory-clients", "1"], "must be 0 for no limit, or a number of bytes between 1mb and 1024gb"),
        (["--sidecar-in-flight-limit", "0"], "must be a number between 1000 and 2000000000"),
        (["--sidecar-log-format", "xml"], "must be one of auto, json, console"),
        (["--sidecar-engine-password", "s3cret", "x"], "sidecar-engine-password: 2 values (from argument "),
        (
            ["--sidecar-worker", "2"],
            "is not a setting of valkey-sidecar (from argument --sidecar-worker), did you mean sidecar-workers?",
        ),
        (["--sidecar-xyzzy", "2"], "sidecar-xyzzy is not a setting of valkey-sidecar (from argument --sidecar-xyzzy)"),
        (["--sidecar-http-prt", "2"], "did you mean sidecar-http-port?"),
        (["--sidecar-workers=2"], "--sidecar-workers=...: write a space instead of =, as in --port 6380"),
        (["--requirepass=s3cret"], "--requirepass=...: write a space instead of =, as in --port 6380"),
        (["-p", "6380"], '"-p" is not an option: they begin with two dashes, as in --port 6380'),
        (["--port", "1", "---hz", "1"], '"-hz" is not an option: they begin with two dashes, as in --port 6380'),
        (["--port 'x"], "argument: unbalanced quotes (from argument --port): a quote is not closed"),
        (["--tls-port", "70000"], 'tls-port: "70000" (from argument --tls-port) must be a number between 0 and 65535'),
        (
            ["--tls-auth-clients", "maybe"],
            '"maybe" (from argument --tls-auth-clients) must be one of no, yes, optional',
        ),
        (
            ["--tls-key-file-pass", "s3cret", "x"],
            "tls-key-file-pass: 2 values (from argument --tls-key-file-pass) where",
        ),
        (["--tls-cluster", "yes"], "tls-cluster: cluster mode is not available yet (from argument --tls-cluster)"),
        (
            ["--tls-auth-clients-user", "CN"],
            "tls-auth-clients-user: log-in by certificate is not available (from argument --tls-auth-clients-user)",
        ),
        (["--rdma-port", "1"], "rdma-port: RDMA is not available (from argument --rdma-port)"),
        (["--cluster-enabled", "YES"], "cluster-enabled: cluster mode is not available yet (from argument --cluster-"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_where_and_what_is_allowed(argv: list[str], message: str) -> None:
    line = refused(*argv)
    assert message in line
    assert "s3cret" not in line


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    assert (
        refused("--sidecar-foo", "2") == "sidecar-foo is not a setting of valkey-sidecar (from argument --sidecar-foo)"
    )


def test_a_mistake_in_the_environment_the_file_or_standard_input_says_so(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("\nport x\n")
    assert f'port: "x" (from {conf}, line 2) must be' in refused(str(conf))
    assert 'port: "x" (from standard input, line 1) must be' in refused("-", stdin=b"port x")
    assert '"x" (from environment variable SIDECAR_WORKERS) must be' in refused(environment={"SIDECAR_WORKERS": "x"})
    conf.write_text("sidecar-workers=2\n")
    assert refused(str(conf)) == f"sidecar-workers: write a space instead of = (from {conf}, line 1)"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0", 0),
        ("0mb", 0),
        ("1mb", 1 << 20),
        ("1M", None),
        ("2M", 2_000_000),
        ("1048577", (1 << 20) + 1),
        ("1GB", 1 << 30),
    ],
)
def test_a_number_of_bytes_is_written_as_in_valkey(value: str, number: int | None) -> None:
    argv = ("--sidecar-maxmemory-clients", value)
    if number is None:  # a little less than 1mb
        assert "between 1mb and" in refused(*argv)
    else:
        assert load(*argv).sidecar.maxmemory_clients == number


def test_the_engines_limits_on_its_clients_are_known_from_the_start(tmp_path: Path) -> None:
    conf = tmp_path / "valkey.conf"
    conf.write_text("client-output-buffer-limit normal 1mb 0 0\nclient-output-buffer-limit pubsub 1mb 0 0\n")
    name, other = "client-output-buffer-limit", "maxmemory-clients"
    assert load().memory_limits == {name: False, other: False}
    assert load(str(conf)).memory_limits == {name: True, other: False}
    assert load(str(conf), f"--{name}", "normal 0 0 0", f"--{other}", "5%").memory_limits == {name: False, other: True}


@pytest.mark.parametrize("option", ["--tls-cluster no", "--tls-auth-clients-user off", "--cluster-enabled no"])
def test_saying_no_to_what_is_not_available_is_fine(option: str) -> None:
    assert len(load(option).directives) == 1


def test_what_kubernetes_injects_for_a_service_called_sidecar_never_matters() -> None:
    environment = {
        "SIDECAR_PORT": "tcp://10.0.0.1:6379",
        "SIDECAR_PORT_6379_TCP": "tcp://10.0.0.1:6379",
        "SIDECAR_PORT_6379_TCP_PROTO": "tcp",
        "SIDECAR_PORT_6379_TCP_PORT": "6379",
        "SIDECAR_PORT_6379_TCP_ADDR": "10.0.0.1",
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_SERVICE_PORT": "6379",
        "SIDECAR_SERVICE_PORT_HTTP_METRICS": "9121",
        "SIDECAR_CACHE_SERVICE_HOST": "10.0.0.2",
        "SIDECAR_CACHE_PORT": "tcp://10.0.0.2:6379",
    }
    configuration = load(environment=environment)
    assert configuration.sidecar == SidecarSettings()
    assert configuration.warnings == ()


def test_the_address_of_a_service_called_like_a_setting_is_ignored_with_a_warning() -> None:
    configuration = load(environment={"SIDECAR_HTTP_PORT": "tcp://10.0.0.1:80"})
    assert configuration.sidecar.http_port == 9121
    assert "sidecar-http-port" not in configuration.origins
    (warning,) = configuration.warnings
    assert warning.startswith("environment variable SIDECAR_HTTP_PORT is ignored")


def test_an_unknown_variable_is_a_warning_and_an_empty_one_is_not_set() -> None:
    configuration = load(environment={"SIDECAR_WORKER": "2", "SIDECAR_WORKERS": "", "PATH": "/bin"})
    assert configuration.sidecar.workers is None
    assert configuration.warnings == (
        "environment variable SIDECAR_WORKER is not a setting, did you mean SIDECAR_WORKERS?",
    )


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_token_may_come_from_a_file(tmp_path: Path, end: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(f"s3cret{end}".encode())
    configuration = load("--sidecar-http-token-file", str(path))
    assert configuration.sidecar.http_token == SecretStr("s3cret")
    assert "s3cret" not in repr(configuration)


def test_mistakes_with_a_token_are_told_without_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret of two words")
    for told, argv in (
        (
            "sidecar-http-token: the value (from argument --sidecar-http-token) must be a token of letters, digits and",
            ["--sidecar-http-token", "s3cret\r\nX: y"],
        ),
        ("the value (from argument --sidecar-http-token-file) must be a", ["--sidecar-http-token-file", str(path)]),
        ("both set", ["--sidecar-http-token", "s3cret", "--sidecar-http-token-file", str(path)]),
        ("sidecar-http-token-file: it cannot be read: No such", ["--sidecar-http-token-file", "s3cret"]),
        ("it is empty", ["--sidecar-http-token-file", "/dev/null"]),
    ):
        message = refused(*argv)
        assert told in message
        assert "s3cret" not in message


def test_no_password_is_in_a_repr() -> None:
    configuration = load(
        "--requirepass",
        "s3cret",
        "--sidecar-engine-password",
        "s3cret",
        "--user",
        "bob",
        "on",
        ">s3cret",
        "--port",
        "1",
    )
    assert configuration.requirepass == SecretStr("s3cret")
    assert configuration.sidecar.engine_password == SecretStr("s3cret")
    shown = repr(configuration) + str(configuration.requirepass) + repr(configuration.directives)
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        ([], "requirepass", None),
        (["--requirepass", "a", "--requirepass", ""], "requirepass", None),
        (["--requirepass", "a", "--requirepass", "b"], "requirepass", SecretStr("b")),
        ([], "enable_debug_command", "no"),
        (["--enable-debug-command", "LOCAL"], "enable_debug_command", "local"),
        (["--enable-protected-configs", "yes"], "enable_protected_configs", "yes"),
        (["--enable-module-command", "local"], "enable_module_command", "local"),
        ([], "loglevel", "notice"),
        (["--loglevel", "Verbose"], "loglevel", "verbose"),
        ([], "has_persistence", True),
        (["--save", ""], "has_persistence", False),
        (["--save"], "has_persistence", False),
        (["--save", "", "--save", "60", "1"], "has_persistence", True),
        (["--save", "60 1", "--save", ""], "has_persistence", False),
        (["--save", "", "--appendonly", "yes"], "has_persistence", True),
        ([], "rename_commands", {}),
        (["--rename-command", "CONFIG", "Secret"], "rename_commands", {"secret": "config"}),
        (["--rename-command", "CONFIG", "Secret"], "removed_commands", {"config"}),
        (["--rename-command", "FLUSHALL", ""], "removed_commands", {"flushall"}),
        (["--rename-command", "get", "a", "--rename-command", "a", "b"], "rename_commands", {"b": "get"}),
        (["--rename-command", "get", "a", "--rename-command", "a", "b"], "removed_commands", {"get", "a"}),
    ],
)
def test_facts_that_the_server_needs_are_read_from_the_engines_directives(
    argv: list[str], name: str, value: object
) -> None:
    assert getattr(load(*argv), name) == value


def test_two_commands_may_swap_their_names() -> None:
    swap = [("get", "x"), ("set", "get"), ("x", "set")]
    configuration = load(*(word for old, new in swap for word in ("--rename-command", old, new)))
    assert configuration.rename_commands == {"get": "set", "set": "get"}
    assert configuration.removed_commands == {"x"}


def test_paths_are_seen_from_dir(tmp_path: Path) -> None:
    configuration = load("--dir", str(tmp_path / "a" / ".." / "b"), "--unixsocket", "valkey.sock")
    assert configuration.dir == str(tmp_path / "b")
    assert configuration.path(configuration.listener.unixsocket or "") == str(tmp_path / "b" / "valkey.sock")


def test_the_engine_gets_everything_that_is_not_ours() -> None:
    configuration = load(
        "--port", "1", "--hz", "5", "--sidecar-ledger", "off", "--client-output-buffer-limit", "normal 0 0 0"
    )
    assert [directive.render() for directive in configuration.engine_directives] == [
        "hz 5",
        'client-output-buffer-limit "normal 0 0 0"',
    ]
    assert is_ours("sidecar-anything")
    assert all(is_ours(name) for name in LISTENER_DIRECTIVES)
    assert not is_ours("hz")


def test_config_values_are_printed_as_config_get_prints_them() -> None:
    configuration = load(
        "--bind", "127.0.0.1 -::1", "--unixsocketperm", "0755", "--protected-mode", "NO", "--pidfile", ""
    )
    values = configuration.listener.config_values()
    assert values["bind"] == "127.0.0.1 -::1"
    assert values["unixsocketperm"] == "755"
    assert values["protected-mode"] == "no"
    assert values["pidfile"] == values["unixsocket"] == values["logfile"] == ""
    assert configuration.listener.with_value("bind", ()).config_values()["bind"] == ""


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("port", "0", 0),
        ("PORT", "65535", 65535),
        ("bind", "127.0.0.1 ::1", ("127.0.0.1", "::1")),
        ("bind", "", ()),
        ("protected-mode", "No", False),
        ("maxclients", "4294967295", 4294967295),
    ],
)
def test_a_new_value_at_run_time_is_parsed(name: str, value: str, parsed: object) -> None:
    assert parse_listener_value(name, [value]) == parsed


def test_the_settings_page_is_the_one_made_from_the_models() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text() == settings_page(), "run: python -m sidecar.reference > docs/settings.md"


def test_help_names_every_setting_and_says_whose_the_others_are() -> None:
    text = help_text()
    for setting in SETTINGS:
        assert setting.argument in text
        assert setting.environment in text
    assert "All other options are valkey-server's" in text
    assert max(len(line) for line in text.splitlines()) <= 120


@pytest.mark.parametrize(("cpus", "workers"), [(0.5, 1), (1, 1), (2, 1), (2.9, 1), (3, 2), (9, 8), (64, 8)])
def test_one_cpu_is_left_to_the_engine(cpus: float, workers: int) -> None:
    assert default_workers(cpus) == workers


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "25000 100000\n"}, 0.25),
        (  # the strictest of all groups around it
            {
                "proc/self/cgroup": "0::/pod/container\n",
                "sys/fs/cgroup/pod/cpu.max": "30000 100000\n",
                "sys/fs/cgroup/pod/container/cpu.max": "50000 100000\n",
            },
            0.3,
        ),
        ({"proc/self/cgroup": "0::/host/only\n", "sys/fs/cgroup/cpu.max": "40000 100000\n"}, 0.4),  # in a container
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/x\n1:memory:/y\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "75000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.75,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_cgroup_quotas_limit_the_cpus(tmp_path: Path, files: dict[str, str], cpus: float | None) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    unlimited = available_cpus(tmp_path / "nothing")
    assert available_cpus(tmp_path) == (unlimited if cpus is None else cpus)


def test_only_the_cpus_of_its_affinity_are_ours() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from sidecar.cpus import available_cpus, default_workers;"
        "print(available_cpus() <= 1, default_workers())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True 1\n"


@pytest.mark.parametrize(("cpus", "workers"), [(2, 1), (4, 3), (8, 7), (16, 8)])
def test_workers_follow_the_affinity_and_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpus: int, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
    assert default_workers(available_cpus(tmp_path)) == workers  # without a quota
    assert load("--sidecar-workers", "5").workers == 5


@pytest.mark.parametrize(
    ("older", "name"),
    [("slave-announce-port", "replica-announce-port"), ("min-slaves-to-write", "min-replicas-to-write")],
)
def test_a_directive_is_found_by_its_older_name(older: str, name: str) -> None:
    assert load(f"--{name}", "1", f"--{older}", "2").engine_args(name) == ("2",)
