"""What schemathesis has to know beyond the schema; it loads this module by ``SCHEMATHESIS_HOOKS``.

A schema cannot express that what is in base64 is JSON, nor that a job is due within ten years, and to JSON Schema 1.0 is an integer, which to most parsers it is not.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import schemathesis

from gateway.edges.api.methods import METHODS
from gateway.edges.api.requests import YEAR_10000

B64 = {name for method in METHODS.values() for name in method.request.__struct_fields__ if name.startswith("b64")}


def _holding_json(text: str) -> str:
    """Base64 of JSON in place of any base64; what is not base64 stays as wrong as it is."""
    try:
        held = base64.b64decode(text, validate=True)
    except ValueError:
        return text
    return base64.b64encode(json.dumps(held.hex()).encode()).decode() if held else text


def _soon(at: Any) -> Any:
    """A time that is more than ten years away is tomorrow instead; what is no time stays as wrong as it is."""
    far = not isinstance(at, bool) and isinstance(at, int | float) and time.time() + 10 * 365 * 86400 < at < YEAR_10000
    return int(time.time()) + 86400 if far else at


def _mended_field(name: str, value: Any) -> Any:
    if name in B64 and isinstance(value, str):
        return _holding_json(value)
    return _mended(_soon(value) if name == "at" else value)


def _mended(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _mended_field(name, part) for name, part in value.items()}
    if isinstance(value, list):
        return [_mended(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    mended = _mended(case.body)
    if mended != case.body or repr(mended) != repr(case.body):  # a body that is assigned is taken for another one; 1 equals 1.0
        case.body = mended
