"""What a publication costs on its way in: by HTTP alone and in batches, and by the function in Valkey."""

from __future__ import annotations

from ..stage import MICRO, RUNS, Runs, Stage, Use

__all__ = ["CONNECTIONS", "publishing"]

SECONDS = 1.3
CONNECTIONS, BATCH_CONNECTIONS = 16, 4
BATCH = 20
WINDOW = 128  # function calls on the way at a time
CHANNEL = "published"


def publishing(stage: Stage) -> Runs:
    """Nobody is subscribed, but for the function's publications: there a gateway has work only if one of its clients follows the channel."""
    stage.open("follower", [f"{CHANNEL}-by-function"], 1)()
    batches = stage.server.addressing.batch >= BATCH
    try:
        for _ in range(RUNS):
            _by_http(stage, "by HTTP", 1, CONNECTIONS)
            if batches:
                _by_http(stage, f"by HTTP in batches of {BATCH}", BATCH, BATCH_CONNECTIONS)
            if stage.server.prefix:
                _by_function(stage)
            yield
    finally:
        stage.close("follower")


def _by_http(stage: Stage, how: str, batch: int, connections: int) -> None:
    stage.note(f"published {how}")
    use = stage.measure(stage.publish_at_once([[CHANNEL] * batch], connections, stage.effort.seconds(SECONDS)), valkey=True)
    _show(stage, how, use, use.answer.done * batch)


def _by_function(stage: Stage) -> None:
    stage.note("published by FCALL")
    work = stage.publish_by_calls(f"{CHANNEL}-by-function", WINDOW, stage.effort.seconds(SECONDS))
    use = stage.measure(work, lambda answer: answer.done, valkey=True)
    _show(stage, "by FCALL, one subscriber", use, use.answer.done)


def _show(stage: Stage, how: str, use: Use, publications: int) -> None:
    stage.cost(f"CPU per publication {how}", use, publications)
    if stage.has_valkey and publications:
        stage.figure(f"Valkey's CPU per publication {how}", "µs", use.valkey / publications * MICRO, use)
    stage.figure(f"publications {how}", "1/s", publications / use.answer.seconds, use, better="more")
