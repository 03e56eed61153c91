"""Settings, their bounds, and that docs/settings.md lists them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import annotated_types
import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from service.settings import ENVIRONMENT_PREFIX, Settings, usable_cores

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def documented_rows() -> dict[str, tuple[str, ...]]:
    """Variable -> default, allowed values and meaning, from the table."""
    pattern = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)
    return {name: tuple(cells) for name, *cells in pattern.findall(DOCUMENT.read_text("utf-8"))}


def shown_default(field: FieldInfo) -> str:
    if field.default_factory:
        return "usable cores"
    return "none" if field.default in (None, "") else f"`{field.default}`".replace("False", "false")


def is_number(field: FieldInfo) -> bool:
    return field.annotation in (int, float, int | None)


def shown_values(field: FieldInfo) -> str:
    if field.annotation in (Path, Path | None):
        return "a path"
    if not is_number(field) and (choices := get_args(field.annotation)):
        return ", ".join(f"`{choice}`" for choice in choices)
    if not is_number(field):
        return {"str": "text", "bool": "`true`, `false`"}[field.annotation.__name__]
    bounds = {type(bound).__name__: getattr(bound, type(bound).__name__.lower()) for bound in field.metadata}
    high = f"{int(bounds['Le']):,}"
    return f"{int(bounds['Ge']):,} to {high}" if "Ge" in bounds else f"above {int(bounds['Gt']):,}, at most {high}"


def test_the_document_lists_every_setting_with_default_bounds_and_meaning() -> None:
    assert documented_rows() == {
        f"{ENVIRONMENT_PREFIX}{name}".upper(): (shown_default(field), shown_values(field), field.description)
        for name, field in Settings.model_fields.items()
    }


def test_every_number_has_bounds() -> None:
    for name, field in Settings.model_fields.items():
        if is_number(field):
            kinds = {type(bound) for bound in field.metadata}
            assert annotated_types.Le in kinds, name
            assert kinds & {annotated_types.Ge, annotated_types.Gt}, name


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALGIL_PORT", "8123")
    monkeypatch.setenv("MALGIL_MODELS_FOLDER", "/srv/models")
    settings = Settings()
    assert settings.port == 8123
    assert settings.models_folder == Path("/srv/models")
    assert Settings(port=9).port == 9, "what is passed in wins"


def test_by_default_there_is_a_run_for_each_usable_core() -> None:
    assert Settings().concurrent_runs == usable_cores() >= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": 70_000}, "port"),
        ({"max_batch_rows": 0}, "max_batch_rows"),
        ({"drain_timeout_s": -1}, "drain_timeout_s"),
        ({"log_level": "loud"}, "log_level"),
        ({"default_timeout_ms": 2000, "max_timeout_ms": 1000}, "default_timeout_ms 2000 exceeds max_timeout_ms 1000"),
        ({"max_inputs": 20, "queue_rows": 10}, "max_inputs 20 exceeds queue_rows 10"),
        ({"tf_serving_tls": True, "tf_serving_client_key_file": "key.pem"}, "go together"),
        ({"tf_serving_tls": True, "tf_serving_client_certificate_file": "own.pem"}, "go together"),
        ({"tf_serving_ca_file": "ca.pem"}, "tf_serving_tls is not true"),
        ({"tf_serving_server_name": "models"}, "tf_serving_tls is not true"),
        ({"prot": 8000}, "prot"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**values)


def test_they_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1
