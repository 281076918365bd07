"""Changing settings by dotted keys, and reading them from text; what is wrong is named with the nearest right key."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from thingstuff.errors import InputError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def dotted_keys(config: BaseModel, prefix: str = "") -> list[str]:
    """Return every key of a config and of the configs inside it, such as `backbone.depth`."""
    keys = []
    for name in type(config).model_fields:
        value = getattr(config, name)
        keys.append(prefix + name)
        if isinstance(value, BaseModel):
            keys.extend(dotted_keys(value, f"{prefix}{name}."))
    return keys


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` arguments; values are YAML, so `[640, 800]`, `1e-4`, `true` and plain words work.

    Raises `InputError` for an argument without `=` or a value that is no YAML.
    """
    changes: dict[str, Any] = {}
    for argument in arguments:
        key, sign, text = argument.partition("=")
        if not sign or not key:
            raise InputError(f"setting {argument!r} is not of the form key=value, such as optim.lr=1e-4")
        try:
            changes[key.strip()] = _value(text)
        except yaml.YAMLError as error:
            raise InputError(f"setting {key}: {text!r} cannot be read ({error})") from None
    return changes


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, bool) and text.strip().lower() not in ("true", "false"):  # YAML 1.1 takes no for false
        return text.strip()
    if isinstance(value, str):  # ... and 1e-4 for a word
        try:
            return float(value)
        except ValueError:
            return value
    return value


def check_keys(changes: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raise `InputError` for a key that is not known, naming the nearest one."""
    for key in changes:
        if key in known:
            continue
        last = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        near = difflib.get_close_matches(key, known, 1) or [
            last[k] for k in difflib.get_close_matches(key.rsplit(".", 1)[-1], list(last), 1)
        ]
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise InputError(f"unknown setting {key!r} of the {what}; {hint}")


def changed(config: ConfigT, changes: Mapping[str, Any], what: str = "model") -> ConfigT:
    """Return the config with dotted keys changed and everything checked again.

    Raises `InputError` for an unknown key (naming the nearest one) or a wrong value.
    """
    if not changes:
        return config
    check_keys(changes, dotted_keys(config), what)
    values = config.model_dump()
    for key, value in changes.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            if not isinstance(place[part], dict):
                raise InputError(f"{what}: {part}={place[part]!r} has no {last!r} to set; give its fields one by one")
            place = place[part]
        place[last] = value
    return validated(type(config), values, what)


def validated(kind: type[ConfigT], values: Mapping[str, Any], where: str) -> ConfigT:
    """Build a config from plain values; raises `InputError` that names each wrong field and value."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for entry in error.errors():
            key = ".".join(str(part) for part in entry["loc"])
            if entry["type"] == "extra_forbidden":
                near = difflib.get_close_matches(str(entry["loc"][-1]), list(kind.model_fields), 1)
                problems.append(f"{key} is unknown" + (f", did you mean {near[0]!r}?" if near else ""))
            else:
                problems.append(f"{key}={entry['input']!r}: {entry['msg']}")
        raise InputError(f"{where}: " + "; ".join(problems)) from None
