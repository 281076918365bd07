"""Settings by dotted keys: right ones are applied and checked, wrong ones are named with the nearest."""

import re
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from thingstuff.config import changed, check_keys, dotted_keys, parse_overrides, validated
from thingstuff.errors import InputError


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    short_side: int = Field(default=800, ge=32)
    order: Literal["RGB", "BGR"] = "RGB"


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    inner: Inner = Inner()
    rate: float = 0.01
    sizes: tuple[int, ...] = (640, 800)


def test_dotted_keys_reach_into_configs() -> None:
    assert dotted_keys(Outer()) == ["inner", "inner.short_side", "inner.order", "rate", "sizes"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("0.5", 0.5),
        ("-3", -3),
        ("true", True),
        ("null", None),
        ("[640, 800]", [640, 800]),
        ("imagenet", "imagenet"),
        ("a=b", "a=b"),
        ("", None),
    ],
)
def test_values_are_read_as_people_write_them(text: str, value: Any) -> None:
    (read,) = parse_overrides([f" optim.lr={text}"]).values()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("argument", ["optim.lr", "=5", "sizes=[1, 2", "a=b: c: d"])
def test_what_is_no_setting_is_refused(argument: str) -> None:
    with pytest.raises(InputError, match=re.escape(argument.split("=")[0] or argument)):
        parse_overrides([argument])


def test_changes_are_applied_and_the_original_stays() -> None:
    config = Outer()
    new = changed(config, {"inner.short_side": 64, "sizes": [1, 2, 3], "rate": 1})
    assert (new.inner.short_side, new.sizes, new.rate) == (64, (1, 2, 3), 1.0)
    assert new.inner.order == "RGB"
    assert config == Outer()
    assert changed(config, {}) is config


def test_a_whole_config_may_be_changed_before_its_parts() -> None:
    assert changed(Outer(), {"inner": {"order": "BGR"}}).inner == Inner(order="BGR")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("inner.short_sid", "inner.short_side"),
        ("short_side", "inner.short_side"),
        ("ordr", "inner.order"),
        ("rat", "rate"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(InputError, match=f"unknown setting '{key}' of the model; did you mean '{near}'"):
        changed(Outer(), {key: 1})


def test_a_config_that_is_no_config_has_no_parts_to_change() -> None:
    with pytest.raises(InputError, match="inner"):
        changed(Outer(), {"inner": 5, "inner.short_side": 64})


def test_an_unknown_key_near_to_nothing_gets_the_list() -> None:
    with pytest.raises(InputError, match=r"known are inner, inner\.short_side"):
        check_keys({"xyzzy": 1}, dotted_keys(Outer()), "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner.short_side": 8}, r"inner\.short_side=8: .*32"),
        ({"inner.order": "GRB"}, r"inner\.order='GRB'"),
        ({"rate": "fast"}, r"rate='fast'"),
        ({"rate": 2.0, "sizes": 5, "inner.short_side": 1}, r"short_side=1.*sizes=5"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(Outer(), changes)


def test_a_config_of_a_file_is_checked_with_the_file_s_name() -> None:
    with pytest.raises(InputError, match=r"run/config\.yaml: rte is unknown, did you mean 'rate'"):
        validated(Outer, {"rte": 1}, "run/config.yaml")
    assert validated(Outer, {"rate": 2}, "run/config.yaml").rate == 2.0
