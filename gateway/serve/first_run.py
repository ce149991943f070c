"""The secrets of a first run: a token secret and an API key, made once and kept beside the data.

They are made only where the configuration names none: whoever configures a secret is never given another.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from ..config import Config
from ..errors import ConfigurationError

__all__ = ["with_credentials"]

FILE = "credentials.json"


def with_credentials(config: Config, *, make: bool) -> Config:
    """The configuration with the kept secrets in the places it leaves empty; ``make`` makes them where there are none."""
    needs_secret = not (config.tokens.hmac_secret or config.tokens.public_key_file or config.tokens.jwks_url)
    needs_key = not config.api_keys
    if not (needs_secret or needs_key):
        return config
    path = config.data_path / FILE
    kept = _read(path)
    if kept is None:
        if not make:
            return config
        _write(path, {"hmac_secret": secrets.token_hex(32), "api_key": secrets.token_hex(16)})
        kept = _read(path)
        assert kept is not None
    changes: dict[str, object] = {}
    if needs_secret:
        changes["tokens"] = config.tokens.model_copy(update={"hmac_secret": kept["hmac_secret"]})
    if needs_key:
        changes["api_keys"] = [kept["api_key"]]
    return config.model_copy(update=changes)


def _read(path: Path) -> dict[str, str] | None:
    try:
        kept = json.loads(path.read_text())
        return {"hmac_secret": kept["hmac_secret"], "api_key": kept["api_key"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error}); remove it to have new secrets made") from None


def _write(path: Path, kept: dict[str, str]) -> None:
    """Whole or not at all; if another gateway was faster, its secrets hold."""
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(kept, file)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
