"""The demo's simulated people: what they write, and when. They act through the same functions as any other member."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy.exc import DBAPIError

from publishers.database import Database
from publishers.faults import Fault, Invalid
from publishers.posts import create_channel, create_post, list_channels, list_posts
from publishers.reactions import REACTIONS, Reactions
from publishers.reviews import create_review, list_reviews, respond

from .past import write_past

__all__ = ["MENU", "SUBJECTS", "Dish", "People"]

log = logging.getLogger("gateway.demo")

PACE = 12  # acts a minute to begin with
NAME_MOST = 32
NAMES_MOST = 200  # that the page offers to choose from
REST_AFTER = 600.0  # seconds without a connection
LOOK_SECONDS = 1.0

SIMULATED = ("ada", "ben", "chiara", "deniz", "emeka", "fatima", "goran", "hana")

SUBJECTS = [
    {"id": "trattoria", "name": "Trattoria da Nino", "kind": "Italian · quiet courtyard"},
    {"id": "nori", "name": "Nori Bar", "kind": "Japanese · twelve seats"},
    {"id": "mezze", "name": "Beirut Mezze", "kind": "Lebanese · long tables"},
    {"id": "kiosk", "name": "Kiosk No. 7", "kind": "Coffee and cake · by the canal"},
]


class Dish(NamedTuple):
    """``amount`` is in cents."""

    name: str
    amount: int


MENU = {
    "pizza": Dish("Pizza from Nino", 1150),
    "ramen": Dish("Ramen from the Nori Bar", 1400),
    "cake": Dish("Plum cake from the kiosk", 420),
    "spoon": Dish("A golden spoon", 9_999_900),  # more than the bank allows
}

CHANNELS = (("town", "Around town", "ada"), ("kitchen", "From our kitchens", "chiara"), ("music", "Live music", "emeka"))

POSTS = {
    "town": (
        "The bridge by the mill is open again. Half the town seems to be walking over it, just to have done so.",
        "Farmers' market moves to the church square this Saturday, rain or shine.",
        "Has anybody else noticed the owl in the old brewery? Third night in a row.",
        "Lost: one grey mitten. Found: three grey mittens. Ask at the bakery.",
        "The library stays open until ten in the exam weeks. There is tea.",
        "Somebody planted crocuses along the tram line. Whoever you are: thank you.",
    ),
    "kitchen": (
        "Day four of the sourdough starter. It has opinions now.",
        "Roasted the cauliflower with cumin and a little honey. Not one floret left.",
        "Which of you told me that fennel and orange go together? You were right.",
        "The secret of the broth is time. And one forgotten parmesan rind.",
        "Attempt number two at croissants. They are triangular, which counts as progress.",
    ),
    "music": (
        "Trio at the boat house tonight, nine o'clock, bring a coat.",
        "The choir needs two tenors and somebody who can turn pages.",
        "Open stage on Thursday. I will bring the double bass if somebody helps carry it.",
        "That encore yesterday. I am still humming it.",
        "Vinyl fair on Sunday: two rooms, one record player, no rules.",
    ),
}

REVIEWS = {
    "trattoria": (
        (5, "The tagliatelle are made in front of you. We came for one plate and stayed for three."),
        (4, "Lovely courtyard, slow service, and not one of us minded."),
        (3, "Good pizza, loud evening. Come for lunch instead."),
        (5, "Nino remembered what my mother ordered two years ago."),
    ),
    "nori": (
        (5, "Twelve seats, one chef, no menu. Trust him with the mackerel."),
        (4, "The omelette alone is worth the queue."),
        (2, "Beautiful fish, but an hour's wait with a booked table is too much."),
        (5, "I did not know that rice could be the best part."),
    ),
    "mezze": (
        (5, "Order for two, eat for four, take home for six."),
        (4, "The smoky aubergine! I asked for the recipe and got a smile."),
        (3, "Warm bread, warm people, rather cold tea."),
        (4, "Go with friends, take the long table, let them bring everything."),
    ),
    "kiosk": (
        (4, "Best flat white by the water, and the cinnamon buns are gone by ten."),
        (5, "Rain on the canal, plum cake, nothing to do. Perfect."),
        (3, "Three stools. Pretty, and a little too honest about November."),
        (4, "They lend you a blanket and a newspaper."),
    ),
}

RESPONSES = (
    "Same here, down to the second helping.",
    "We went because of this review. Thank you!",
    "I had another evening there, but I would give it a second chance.",
    "Did you sit outside?",
    "Now I am hungry, and it is half past nine in the morning.",
    "Which day was that? On Mondays it is a different cook.",
    "You are far too kind, and entirely right.",
)


class People:
    """The demo's members: ``names`` are the simulated ones and all visitors. ``live()`` lets the simulated ones act.

    ``pace`` is how often they act in a minute. They rest when ``connections()``, the number of connected clients, was 0 for
    REST_AFTER seconds, so that a demo without visitors does not grow. They do not rest at once: a visitor who disconnects on purpose
    wants to see what they missed.
    """

    def __init__(self, database: Database, reactions: Reactions, connections: Callable[[], int]) -> None:
        self._database = database
        self._reactions = reactions
        self._connections = connections
        self._random = random.Random()
        self._hurry = asyncio.Event()
        self._unused: dict[str, list[Any]] = {}  # what is left of each stock of sentences, in a random order
        self._names = dict.fromkeys(SIMULATED)
        self.pace = PACE

    @property
    def names(self) -> list[str]:
        """In the order in which they came."""
        return list(self._names)

    def welcome(self, name: str) -> str:
        """Adds a visitor who is not a member yet. Returns the name; raises Invalid for one that cannot be."""
        if not 0 < len(name) <= NAME_MOST or not name.replace("_", "").replace("-", "").isalnum():
            raise Invalid(f"a name has 1 to {NAME_MOST} letters, digits, _ or -")
        if len(self._names) < NAMES_MOST:
            self._names[name] = None
        return name

    def set_pace(self, per_minute: int) -> None:
        """0 stops them."""
        self.pace = per_minute
        self._hurry.set()

    async def seed(self) -> None:
        """Writes the channels, posts and reviews of a first run; nothing where there are channels already."""
        if await list_channels(self._database):
            return
        async with self._database.transaction() as transaction:
            for name, title, owner in CHANNELS:
                await create_channel(transaction, name=name, title=title, owner=owner)
            await write_past(transaction, SIMULATED, POSTS, REVIEWS, list(MENU.values())[:-1])
            for name, _, _ in CHANNELS:
                for text in POSTS[name]:
                    await create_post(transaction, channel=name, author=self._anybody(), text=text)
            for subject, written in REVIEWS.items():
                for rating, text in written:
                    await create_review(transaction, subject=subject, author=self._anybody(), rating=rating, text=text)

    async def live(self) -> None:
        """Acts until cancelled."""
        loop = asyncio.get_running_loop()
        seen = loop.time() - REST_AFTER
        while True:
            self._hurry.clear()
            pause = self._random.expovariate(self.pace / 60) if self.pace else 3600.0
            try:
                async with asyncio.timeout(min(pause, 3600.0)):
                    await self._hurry.wait()
                continue  # the pace changed
            except TimeoutError:
                pass
            if self._connections():
                seen = loop.time()
            elif loop.time() - seen >= REST_AFTER:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            try:
                await self._act()
            except (Fault, DBAPIError) as error:  # a post that was deleted meanwhile; a database that is away
                log.debug("a simulated member could not act: %s", error)

    async def _act(self) -> None:
        acts = (self._react, self._respond, self._post, self._review)
        await self._random.choices(acts, weights=(10, 4, 3, 2))[0]()

    def _anybody(self, but: str = "") -> str:
        return self._random.choice([name for name in SIMULATED if name != but])

    def _one_of(self, stock: str, sentences: Sequence[Any]) -> Any:
        """Any of them; each is used once before one is used again."""
        if not self._unused.get(stock):
            self._unused[stock] = self._random.sample(sentences, len(sentences))
        return self._unused[stock].pop()

    async def _post(self) -> None:
        channel = self._random.choice(list(POSTS))
        await create_post(self._database, channel=channel, author=self._anybody(), text=self._one_of(channel, POSTS[channel]))

    async def _review(self) -> None:
        subject = self._random.choice(list(REVIEWS))
        rating, text = self._one_of(subject, REVIEWS[subject])
        await create_review(self._database, subject=subject, author=self._anybody(), rating=rating, text=text)

    async def _respond(self) -> None:
        review = await self._some_review()
        if review is not None:
            text = self._one_of("responses", RESPONSES)
            await respond(self._database, review=review["id"], author=self._anybody(review["author"]), text=text)

    async def _react(self) -> None:
        if self._random.random() < 0.6:
            review = await self._some_review()
            target, author = (f"review:{review['id']}", review["author"]) if review else ("", "")
        else:
            posts = await list_posts(self._database, channel=self._random.choice(list(POSTS)), limit=6)
            post = self._random.choice(posts) if posts else None
            target, author = (f"post:{post['id']}", post["author"]) if post else ("", "")
        if target:
            reaction = self._random.choices((*REACTIONS, None), weights=(6, 4, 2, 2, 1, 1))[0]
            await self._reactions.react(user=self._anybody(author), target=target, reaction=reaction)

    async def _some_review(self) -> dict[str, Any] | None:
        """A recent review; visitors' reviews are chosen more often, so that a visitor soon sees a response."""
        found = await list_reviews(self._database, subject=self._random.choice(SUBJECTS)["id"], limit=6)
        weights = [1 if review["author"] in SIMULATED else 4 for review in found]
        return self._random.choices(found, weights=weights)[0] if found else None
