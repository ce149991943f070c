"""What is wrong with a configuration, a sentence for each key: where its value comes from, what it should be, and the key that may be meant."""

from __future__ import annotations

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from .environment import PREFIX, setting_variables

__all__ = ["sentences", "unknown_variables"]

Location = tuple[int | str, ...]  # of a value: its key, after those of the tables around it

# By pydantic's faults of what has another shape.
SHAPES = {
    "model_type": "Input should be a table",
    "dict_type": "Input should be a table",
    "list_type": 'Input should be a list, in brackets: ["…"]',
}
NAME = "[key]"  # in pydantic's location of the name of a table
NAMESPACE_FAULT = 'is no name of 1 to 64 letters, digits, "_", "." and "-"; a namespace is the word before the colon of its channels'


def unknown_variables(settings: type[BaseModel]) -> list[str]:
    """The environment variables that are meant for the gateway and name none of its ``settings``."""
    faults = []
    for name in setting_variables():
        key = name[len(PREFIX) :].lower().split("__")[0]
        if key not in settings.model_fields:
            similar = _similar((key,), settings)
            variable = f"; did you mean {PREFIX}{similar.upper().replace('.', '__')}?" if similar else ""
            faults.append(f"environment variable {name}: there is no setting {key!r}{variable}")
    return faults


def sentences(error: ValidationError, settings: type[BaseModel], options: dict[str, Any], file: str) -> list[str]:
    """What is wrong with values of ``settings``, which come from ``options`` of the command line, the environment, or else the file: ``file`` begins
    the sentences about it. What a namespace took from [channels] is reported there alone."""
    found: dict[str, None] = {}
    common = {fault["loc"][1:] for fault in error.errors() if fault["loc"][:1] == ("channels",)}
    for fault in error.errors():
        if fault["loc"][:1] != ("namespaces",) or fault["loc"][2:] not in common:
            found[_source(fault["loc"], options, file) + _sentence(fault["loc"], fault["type"], fault["msg"], settings)] = None
    return list(found)


def _source(path: Location, options: dict[str, Any], file: str) -> str:
    """How a sentence about the value of a key begins: with the option, or the environment variable, or the ``file``."""
    keys = [str(key).lower() for key in path]
    if keys and keys[0] in options:
        return f"option --{keys[0].replace('_', '-')}: "
    setting = (name for name in setting_variables() if keys[: name.count("__") + 1] == name[len(PREFIX) :].lower().split("__"))
    return next((f"environment variable {name}: " for name in setting), file)


def _sentence(path: Location, kind: str, message: str, settings: type[BaseModel]) -> str:
    key = ".".join(map(str, path))
    if kind == "extra_forbidden":
        similar = _similar(path, settings)
        return f"there is no setting {key!r}" + (f"; did you mean {similar!r}?" if similar else "")
    if path[:1] == ("namespaces",) and path[2:] == (NAME,):
        return f"namespaces: {path[1]!r} {NAMESPACE_FAULT}"
    text = SHAPES.get(kind) or message.removeprefix("Value error, ")
    return f"{key}: {text}" if key else text


def _similar(path: Location, settings: type[BaseModel]) -> str:
    """The key that an unknown one may be meant for, as it is written in full: the same name in another table, or one spelled alike."""
    *tables, name = map(str, path)
    elsewhere = [key for key in _keys(settings) if key.rpartition(".")[2] == name]
    if elsewhere:
        return elsewhere[0]
    model: Any = settings
    for table in tables:
        model = get_args(model)[-1] if get_origin(model) in (dict, list) else model.model_fields[table].annotation
    alike = difflib.get_close_matches(name, model.model_fields, 1)
    return ".".join([*tables, *alike]) if alike else ""


def _keys(model: type[BaseModel]) -> list[str]:
    """All keys of a table, and of the tables in it: ``limits.connections``."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        table: Any = field.annotation
        inner = _keys(table) if isinstance(table, type) and issubclass(table, BaseModel) else []
        keys += [name, *(f"{name}.{key}" for key in inner)]
    return keys
