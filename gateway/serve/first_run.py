"""The secrets of a first run: a token secret and an API key, made once and stored in ``data_dir``.

They are made only where the configuration has none: a configured secret is never replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from ..config import Config
from ..errors import ConfigurationError
from ..store.data_folder import make_private, open_private

__all__ = ["DEMO_FILE", "FILE", "with_secrets"]

FILE = "credentials.json"
DEMO_FILE = "demo-credentials.json"


def with_secrets(config: Config, *, make: bool, file: str = FILE) -> Config:
    """The configuration; secrets that it lacks are taken from ``data_dir``, and made there first where there are none and ``make`` is set.

    ``file`` is their file there. Raises ConfigurationError if the stored secrets cannot be read or written, or if ``make`` is set and
    the folder belongs to another user.
    """
    needs_secret = not (config.tokens.hmac_secret or config.tokens.public_key_file or config.tokens.jwks_url)
    needs_key = not config.api_keys
    if not (needs_secret or needs_key):
        return config
    if make:
        make_private(config.data_path)
    path = config.data_path / file
    stored = _read(path)
    if stored is None:
        if not make:
            return config
        _write(path, {"hmac_secret": secrets.token_hex(32), "api_key": secrets.token_hex(16)})
        stored = _read(path)
        assert stored is not None
    changes: dict[str, object] = {}
    if needs_secret:
        changes["tokens"] = config.tokens.model_copy(update={"hmac_secret": stored["hmac_secret"]})
    if needs_key:
        changes["api_keys"] = [stored["api_key"]]
    return config.model_copy(update=changes)


def _read(path: Path) -> dict[str, str] | None:
    try:
        stored = json.loads(path.read_text())
        secrets_ = {name: stored[name] for name in ("hmac_secret", "api_key")}
        if not all(isinstance(each, str) and each for each in secrets_.values()):
            raise ValueError("a secret is no text, or empty")
        return secrets_
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = "; run this as the user that the gateway runs as" if isinstance(error, PermissionError) else ""
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}{remedy}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} holds no secrets ({error}); remove it to have new ones made, which ends all tokens") from None


def _write(path: Path, secrets_: dict[str, str]) -> None:
    """Writes the whole file or nothing; if another gateway wrote it first, that file stays."""
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        with open(open_private(draft, os.O_WRONLY | os.O_TRUNC), "w") as file:
            json.dump(secrets_, file)
            file.flush()
            os.fsync(file.fileno())  # a power cut would leave an empty file under its name, with which no gateway starts
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
