from __future__ import annotations

from sidecar.settings import SETTINGS
from telemetry import names
from telemetry.spans import REASONS_OF_DROPS


def test_the_telemetry_page_tells_the_budgets_that_are_the_settings_defaults() -> None:
    defaults = {setting.conf_name.removeprefix("sidecar-"): setting.default for setting in SETTINGS}
    assert {budget.setting: str(budget.per_second) for budget in names.BUDGETS}.items() <= defaults.items()


def test_the_telemetry_page_tells_every_reason_for_which_a_worker_drops_spans() -> None:
    assert set(REASONS_OF_DROPS) <= names.DROP_REASONS.keys()
