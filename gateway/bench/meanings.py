"""What the parts and their figures mean, for readers who did not measure them: each in one sentence.

Names of figures hold counts, as "CPU per delivery to 1,000 subscribers"; so a figure is found by words of its name.
"""

from __future__ import annotations

from collections.abc import Iterable

from .report import Figure

__all__ = ["PARTS", "TITLES", "full_name", "key_figure", "meaning"]

TITLES = {
    "fan-out": "Fan-out",
    "connects": "Connects",
    "memory": "Memory",
    "publish": "Publishing",
    "storm": "A storm of returns",
    "own": "Own channels",
    "latency": "Latency",
}

PARTS = {
    "fan-out": "One publication goes to all subscribers of a channel.",
    "connects": "Clients connect and subscribe, as fast as the server takes them.",
    "memory": "Clients are connected and wait; nothing is sent to them.",
    "publish": "A backend publishes, over HTTP or straight into Valkey.",
    "storm": "Many clients were cut off and return at once; each gets exactly what it missed.",
    "own": "Each client has a channel of its own, so no two clients share a publication.",
    "latency": "From a publish until a client has it, while the load rises to what the server can do.",
}

# The part, words of the name, and the sentence; of several that fit, the first.
FIGURES = (
    ("fan-out", "CPU per delivery at most", "The same at the highest rate, where publications that arrive together share work."),
    ("fan-out", "CPU per delivery", "The server's processor time to bring one publication to one subscriber."),
    ("fan-out", "at most", "How many times a second a publication reaches a subscriber, if they are published as fast as they are taken."),
    ("connects", "at most", "How many clients a second get there, if they all come at once."),
    ("connects", "alone", "The server's processor time for a client that connects without a token or a channel."),
    (
        "connects",
        "of its own",
        "The same, where the token also subscribes the client to a channel that nobody else follows, as notifications do.",
    ),
    (
        "connects",
        "token",
        "The server's processor time for a client that shows a token, subscribes, and is then in the channel's presence.",
    ),
    ("memory", "", "Resident memory of the server that one more subscribed client takes while nothing happens."),
    ("publish", "Valkey", "Valkey's processor time to store one publication and to announce it."),
    ("publish", "CPU", "The server's processor time for one publication on its way in."),
    ("publish", "publications", "How many publications a second are taken, if the next comes as soon as one is answered."),
    ("storm", "until", "From the first connect until the last client has all that it missed."),
    ("storm", "CPU", "The server's processor time for one client that returns, and for all that it missed."),
    ("storm", "Valkey", "How often the server asked Valkey for what was missed; the rest came from its own memory."),
    ("own", "CPU", "The server's processor time for one publication, which one client receives."),
    ("own", "publications", "How many such publications a second reach their clients."),
    ("latency", "under", "The highest load at which 99 of 100 publications still arrive within that time."),
    ("latency", "p50", "Half of the publications arrive within this time."),
    ("latency", "p99", "99 of 100 publications arrive within this time."),
)

# Words in the name of a part's most important figure.
KEYS = {
    "fan-out": "CPU per delivery to",
    "connects": "CPU per connect with",
    "publish": "CPU per publication",
    "storm": "until",
    "own": "CPU per publication",
    "latency": "under",
}


def meaning(figure: Figure) -> str:
    """One sentence, or "" if nothing is known of the figure."""
    return next((sentence for part, words, sentence in FIGURES if part == figure.part and words in figure.name), "")


def full_name(figure: Figure) -> str:
    """The figure's name with its part, as a title."""
    part = TITLES.get(figure.part, figure.part)
    return figure.name.capitalize() if figure.name.lower().startswith(part.lower()) else f"{part}: {figure.name}"


def key_figure(figures: Iterable[Figure]) -> Figure:
    """A part's most important figure: of fan-out that with the most subscribers, of others the first that is known, or the first at all."""
    figures = list(figures)
    known = [figure for figure in figures if figure.part in KEYS and KEYS[figure.part] in figure.name]
    if not known:
        return figures[0]
    return known[-1] if known[0].part == "fan-out" else known[0]
