"""The page of the Python API, made from the docstrings. Run it after one has changed:

python -m tests.documentation.python_api
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, is_typeddict

__all__ = ["PAGE", "PUBLIC", "text"]

PAGE = Path(__file__).parents[2] / "static" / "docs" / "reference" / "python.md"

# Module → what of it applications use; None: its __all__.
PUBLIC: dict[str, tuple[str, ...] | None] = {
    "publishers": None,
    "publishers.publisher": ("PublishOptions",),
    "publishers.database": ("Database",),
    "publishers.transaction": ("Transaction",),
    "publishers.sync_database": None,
    "publishers.session_outbox": ("publish_on_commit", "notify_on_commit", "enqueue_on_commit"),
    "publishers.django": ("publish_on_commit", "notify_on_commit", "enqueue_on_commit", "get_publisher"),
    "publishers.django.token_view": None,
    "publishers.testing": (
        "published",
        "running_gateway",
        "gateway_toml",
        "recording",
        "Published",
        "Publication",
        "Job",
        "RunningGateway",
    ),
    "publishers.posts": None,
    "publishers.reviews": None,
    "publishers.reactions": None,
    "publishers.orders": None,
    "gateway.work": None,
    "gateway.work.producer": ("EnqueuedJob",),
    "gateway.work.queues": ("JobView", "Overview", "Queues"),
    "gateway.work.jobs": ("JobOptions",),
    "gateway.rpc": None,
    "gateway.app": ("create_app",),
    "gateway.config": ("Config", "load"),
    "gateway.publication": ("Position",),
    "gateway.errors": ("ConfigurationError", "JobFailed", "NotPermitted", "QueueFull", "StoreError", "Unavailable"),
}
# What relays, the gateway and our own modules alone call.
INTERNAL = {
    *("Database.alone_with", "Database.apart", "Database.claim", "Database.listening", "Database.wake"),
    *("Gathering.end", "Gathering.gathered", "Transaction.lock", "Transaction.write_outbox", "SyncTransaction.write_outbox"),
    *("Published.add", "Published.add_row", "Queues.enqueue", "Queues.name"),
    *("StoreError.is_wrong_type", "StoreError.is_general", "excerpt"),
}
MADE_ELSEWHERE = {  # applications are given them
    *("Caller", "Delivery", "EnqueuedJob", "Gap", "PlainJob", "RunningJob", "Transaction", "SyncTransaction"),
    *("JobView", "Overview", "Published", "Queues", "RunningGateway"),
}
HEAD = """# Python

Classes and functions for services, from their docstrings.

<!-- run: python -->
```python
from publishers import SyncPublisher

publisher = SyncPublisher()  # the embedded server of a running gateway; else SyncPublisher("valkey://localhost")
print(publisher.publish("posts:tech", {"title": "Hello"}))
```

Errors of arguments are `ValueError` and `TypeError`; all others are below [`gateway.errors`](#gatewayerrors). This page is made from the docstrings of the code.

| to | use |
|---|---|
| publish and notify | [Publisher](#publisher), [SyncPublisher](#syncpublisher) |
| publish in a transaction of your database | [Database](#database), [SyncDatabase](#syncdatabase); in one that your program has already: [SQLAlchemy](#publisherssession_outbox), [Django](#publishersdjango) |
| give a Django user a token | [token_view](#token_view) |
| test what your program publishes | [publishers.testing](#publisherstesting) |
| run and enqueue jobs | [Worker](#worker), [Queue](#queue), [SyncQueue](#syncqueue) |
| read every publication in a service | [Reader](#reader) |
| answer calls of clients | [Service](#service) |
| run the gateway inside an application | [create_app](#create_app), [Config](#config) |
"""


def text() -> str:
    return HEAD + "".join(_module(name, names) for name, names in PUBLIC.items())


def _module(name: str, names: tuple[str, ...] | None) -> str:
    module = importlib.import_module(name)
    members = ((each, getattr(module, each)) for each in names or sorted(module.__all__) if each not in INTERNAL)
    return f"\n## {name}\n" + "".join(_member(each, member) for each, member in members if callable(member))


def _member(name: str, member: Any) -> str:
    if inspect.isclass(member):
        return _class(name, member)
    if _is_fixture(member):
        return _fixture(name, member)
    return f"\n### {name}\n\n{_call(name, member)}\n{_doc(member)}"


def _class(name: str, cls: type) -> str:
    has_constructor = not (name in MADE_ELSEWHERE or issubclass(cls, BaseException) or is_typeddict(cls) or _is_model(cls))
    methods = "".join(_method(each, member) for each, member in _methods(cls))
    constructor = f"\n{_call(name, cls)}\n" if has_constructor else ""
    return f"\n### {name}\n{constructor}{_doc(cls)}" + (f"\n{methods}" if methods else "")


def _is_model(cls: type) -> bool:
    return any(base.__name__ == "BaseModel" for base in cls.__mro__)


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """What a class of ours defines itself or inherits from one of ours, and describes."""
    for base in () if _is_model(cls) else cls.__mro__:
        if base.__module__.startswith(("gateway", "publishers")):
            for name, member in vars(base).items():
                described = inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
                if (
                    not name.startswith("_")
                    and described
                    and f"{base.__name__}.{name}" not in INTERNAL
                    and inspect.getdoc(getattr(cls, name))
                ):
                    yield name, member


def _method(name: str, member: Any) -> str:
    bare = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    shown = f"`{name}`" if isinstance(member, property) else _call(name, bare)
    lines = [line and f"  {line}" for line in _doc(bare).strip().splitlines()]
    return "\n".join([f"- {shown}: {lines[0].strip()}", *lines[1:]]) + "\n"


def _call(name: str, member: Any) -> str:
    """How it is called, with ``await`` or ``async with`` where it needs one, and what it returns."""
    signature = inspect.signature(member)
    shown = [_parameter(each) for each in signature.parameters.values() if each.name not in ("self", "cls")]
    arguments = ", ".join(_with_marks(list(signature.parameters.values()), shown))
    word = _word(member)
    returned = "" if inspect.isclass(member) else _type(signature.return_annotation)
    if word.endswith("with "):
        returned = re.sub(r"^(?:Async)?Iterator\[(.*)\]$", r"\1", returned)
    return f"`{word}{name}({arguments})" + (f" → {returned}`" if returned not in ("", "None") else "`")


def _word(member: Any) -> str:
    """What is written before its call."""
    bare = member if inspect.isclass(member) else inspect.unwrap(member)
    if inspect.iscoroutinefunction(bare):
        return "await "
    return "async with " if inspect.isasyncgenfunction(bare) else "with " if inspect.isgeneratorfunction(bare) else ""


def _is_fixture(member: Any) -> bool:
    return type(member).__name__ == "FixtureFunctionDefinition"


def _fixture(name: str, member: Any) -> str:
    """A fixture of pytest, which tests name as an argument and do not call."""
    returned = re.sub(r"^Iterator\[(.*)\]$", r"\1", _type(inspect.signature(member).return_annotation))
    return f"\n### {name}\n\nA fixture of pytest: `{name}: {returned}`\n{_doc(member)}"


def _with_marks(parameters: list[inspect.Parameter], shown: list[str]) -> Iterator[str]:
    """The parameters, with the star before those that are given by name alone."""
    parameters = [each for each in parameters if each.name not in ("self", "cls")]
    starred = False
    for parameter, text in zip(parameters, shown, strict=True):
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield text


def _parameter(parameter: inspect.Parameter) -> str:
    marks = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    name = marks.get(parameter.kind, "") + parameter.name
    kind = re.sub(r"^Unpack\[(\w+)\]$", r"\1", _type(parameter.annotation))
    name += f": {kind}" if kind else ""
    if parameter.default is parameter.empty:
        return name
    default = "…" if callable(parameter.default) else repr(parameter.default)
    return f"{name} = {default}" if kind else f"{name}={default}"


def _type(annotation: Any) -> str:
    if annotation in (inspect.Signature.empty, None):
        return ""
    text = (
        annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", None) or inspect.formatannotation(annotation)
    )
    return text.replace(",]", "]")  # Python 3.11 writes a tuple's stars so


def _doc(member: Any) -> str:
    """The docstring as Markdown: names are in single backticks, and lines that each explain a name are a list."""
    doc = re.sub(r"``([^`]+)``", r"`\1`", inspect.getdoc(member) or "").strip()
    explained = r"^(?=`\w+`: )"
    if len(re.findall(explained, doc, re.M)) > 1:
        doc = re.sub(explained, "- ", doc, flags=re.M)
    return f"\n{doc}\n" if doc else ""


if __name__ == "__main__":
    PAGE.write_text(text())
