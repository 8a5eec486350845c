"""streams/config/reference.py: each setting has a section, a type, a default and a description."""

from pydantic import SecretStr

from streams.config.reference import SettingReference, settings_reference
from streams.config.settings import Settings
from tests.support.settings_reference import settings_tables

BY_NAME = {setting.name: setting for setting in settings_reference()}
UNITS = {"bytes": "bytes", "seconds": "seconds", "hours": "hours", "days": "days"}


def test_every_setting_is_in_one_section_and_described() -> None:
    """The sections are classes that Settings inherits; together they have its fields, each once."""
    assert len(settings_reference()) == len(BY_NAME) == len(Settings.model_fields)
    assert set(BY_NAME) == set(Settings.model_fields)
    for setting in BY_NAME.values():
        assert setting.section
        assert setting.type
        assert setting.description.endswith((".", "…")), setting.name
        assert setting.description[0].isupper(), setting.name


def test_units_in_names_are_those_of_the_reference() -> None:
    for name, setting in BY_NAME.items():
        suffix = name.rpartition("_")[2]
        if suffix in UNITS:
            assert setting.unit == UNITS[suffix], name


def test_what_is_masked_is_called_secret() -> None:
    for name, field in Settings.model_fields.items():
        assert BY_NAME[name].secret is ("SecretStr" in str(field.annotation)), name
        assert not isinstance(BY_NAME[name].default, SecretStr)


def test_types_say_what_is_allowed() -> None:
    """Choices, bounds and kinds, as pydantic checks them."""
    types = {
        name: BY_NAME[name].type
        for name in ("log_level", "prediction_log_keeps_predictions", "http_port", "worker_name")
    }
    assert types == {
        "log_level": "one of debug, info, warning, error",
        "prediction_log_keeps_predictions": "true or false",
        "http_port": "integer from 0 to 65535",
        "worker_name": "text",
    }
    assert BY_NAME["shutdown_seconds"].type == "number > 0"


def test_the_page_has_a_table_for_each_section() -> None:
    """A pipe in a description would begin another cell."""
    odd = SettingReference("x", "HEADRACE_X", "Odd", "text", "days", True, secret=True, description="A | b.")
    page = settings_tables([odd])
    assert page.startswith("## Odd\n")
    assert page.endswith("| `HEADRACE_X` | text, days, secret | `true` | A &#124; b. |\n")
