"""The play against Why?: random clients, publications and faults, and questions whose answers are compared with what the sockets received.

World    a Stage on which questions are asked; ``defects`` is what is wrong with the answers
Defect   an answer that the truth contradicts

A publication may be written to a client that never reads it, and that only the client knows: such deliveries are counted as ``unseen``. A
process that is killed writes nothing of its last tenth of a second: what it delivered in it is counted as ``killed``.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import valkey

from .operators import send
from .why_players import Player, Published
from .why_stage import USERS, Stage

__all__ = ["Defect", "World"]


@dataclass
class Defect:
    kind: str
    text: str
    answer: dict[str, Any] = field(default_factory=dict)


class World(Stage):
    """One play. ``verdicts`` and ``doubts`` count what was answered."""

    def __init__(self, folder: Path, store: valkey.Valkey, url: str, seed: int) -> None:
        super().__init__(folder, store, url, seed)
        self.defects: list[Defect] = []
        self.verdicts: dict[str, int] = {}
        self.doubts: dict[str, int] = {}
        self.unseen = self.killed = 0

    async def why(self, user: str, each: Published, epoch: str) -> dict[str, Any] | None:
        gateway, operator = self.chance.choice(self.gateways), self.operator
        assert operator is not None
        body = {"user": user, "channel": each.channel, "offset": each.offset, "epoch": epoch}
        headers = operator.headers
        try:
            answer = await asyncio.to_thread(send, gateway, "POST", "/admin/api/why", body, headers)
        except Exception:
            return None
        found = answer.json
        if answer.status != 200 or "result" not in found:
            self.note(f"why refused: {answer.status} {found}")
            return None
        return found["result"]

    def has(self, user: str, each: Published) -> bool:
        return (user, each.channel, each.epoch, each.offset) in self.received or (user, each.number) in self.by_number

    async def question(self, calm: bool) -> None:
        if not self.published:
            return
        known = list(self.published.values())
        recent = self.chance.random() < 0.7
        each = self.chance.choice(known[-40:] if recent else known)
        own = each.channel.partition(":")[2]
        given = [user for user in USERS if self.has(user, each)]
        user = self.chance.choice(given) if given and self.chance.random() < 0.5 else self.chance.choice(USERS)
        user = own if own in USERS and self.chance.random() < 0.5 else user
        before, there = self.has(user, each), {p.client for p in self.players if p.user == user and p.connected}
        found = await self.why(user, each, each.epoch)
        if found is None:
            return
        if not calm:
            await asyncio.sleep(0.3)
        after = self.has(user, each)
        verdict = found["verdict"]
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        if verdict == "not delivered" and before and self.lost_by_kill(user):
            self.killed += 1
        elif verdict == "not delivered" and before:
            self.defect(
                "false NOT", f"{user} {each}: received by {self.received.get((user, each.channel, each.epoch, each.offset))}", found
            )
        if verdict == "delivered" and not after:
            if self.excused(user, each):
                self.unseen += 1
            else:
                self.defect("false DELIVERED", f"{user} {each}", found)
        if verdict == "unknown":
            for finding in found["findings"]:
                if finding.get("ok") is None and finding["kind"] not in ("inbox", "reader", "limit"):
                    words = re.sub(r"[0-9a-f-]{20,}|\d+|0x\w+", "#", finding["text"])[:110] + (" [calm]" if calm else "")
                    self.doubts[words] = self.doubts.get(words, 0) + 1
        for finding in found["findings"]:
            self.check(user, each, finding, found, calm, there)

    def lost_by_kill(self, user: str) -> bool:
        """Whether a process was killed that a client of the user had just come to: its event was not written yet."""
        return any(p.user == user and any(-50 <= at - p.touched <= 400 for at in self.kills) for p in [*self.players, *self.past])

    def excused(self, user: str, each: Published) -> bool:
        """Whether a client of the user may have been written it and have left without reading."""
        return any(p.user == user and p.risk for p in [*self.players, *self.past])

    def defect(self, kind: str, text: str, answer: dict[str, Any]) -> None:
        self.defects.append(Defect(kind, text, answer))
        with open(self.folder / f"defect{self.seed}.txt", "a") as file:
            file.write(f"\n==== {kind}: {text}\n{json.dumps(answer, indent=1)}\n" + "\n".join(self.trace[-150:]))

    def player(self, client: str) -> Player | None:
        return next((p for p in [*self.players, *self.past] if p.client == client), None)

    def check(self, user: str, each: Published, finding: dict[str, Any], answer: dict[str, Any], calm: bool, there: set[str]) -> None:
        text, kind = finding["text"], finding["kind"]
        player = self.player(finding.get("client", ""))
        key = each.channel, each.epoch
        got = player.got.get(key, set()) if player is not None else set()
        if match := re.search(r"was written every publication from (\d+) to (\d+)", text):
            first, last = int(match[1]), int(match[2])
            if player is not None and not player.risk and finding.get("ok") is True:
                missing = [n for n in range(first, last + 1) if n not in got]
                if missing and "filter" not in text and calm and not each.channel.startswith("unrecoverable"):
                    self.defect("false range", f"{player.client} of {user} lacks {missing} in {key}: {text}", answer)
        if (
            finding.get("ok") is False
            and kind in ("subscription", "past")
            and "subscribed later" not in text
            and "after a gap" not in text
            and "another epoch" not in text
            and "was away" not in text
            and player is not None
        ):
            if each.offset in got and player.user == user:
                self.defect("false finding", f"{player.client} has {each}: {text}", answer)
        if kind == "filter" and finding.get("ok") is False and player is not None and each.offset in got:
            self.defect("false filter", f"{player.client} has {each}: {text}", answer)
        if kind == "publication" and finding.get("at_ms") and not each.began - 3 <= finding["at_ms"] <= each.ended + 3:
            self.defect("false time", f"{each}: {finding}", answer)
        if kind == "publication" and text.startswith("there is no publication"):
            self.defect("false never", f"{each}: {text}", answer)
        if kind == "reader" and calm:
            self.check_reader(each, text, answer)
        if kind == "inbox" and calm and each.number in self.ids and "no notification" not in text:
            unread = self.unread.get((user, self.ids[each.number]))
            if unread is not None and ("is unread" in text) is not unread:
                self.defect("false inbox", f"{each} is unread: {unread}: {text}", answer)
        if calm and text == "the user has no connection now":
            alive = [p.client for p in self.players if p.user == user and p.connected and p.goes.is_set() and not p.risk]
            if alive:
                self.defect("false absence", f"{user} has {alive}", answer)
        if (
            calm
            and player is not None
            and "is connected, and not subscribed" in text
            and each.channel in player.following
            and not each.channel.startswith(("mine", "notif"))
            and not player.risk
        ):
            self.defect("false not subscribed", f"{player.client} follows {each.channel}", answer)
        if match := re.search(r"its connection ended with (\d+)", text):
            if player is not None and player.code and player.code != 1000 and int(match[1]) != player.code:
                self.defect("false code", f"{player.client} saw {player.code}: {text}", answer)
        if "was away" in text and match and finding.get("at_ms", 0) > each.ended + 50 and "before the publication" in text:
            self.defect("false away", f"{each} was made before it ended: {text}", answer)

    def check_reader(self, each: Published, text: str, answer: dict[str, Any]) -> None:
        what = self.handled.get((each.epoch, each.offset))
        said = {"has settled it": "settled", "dead letter": "dead", "has not acknowledged it": "pending", "was not given it yet": None}
        found = next((state for words, state in said.items() if words in text), "other")
        if what != "" and found != what and found != "other":
            self.defect("false reader", f"{each} is {what}: {text}", answer)
        if found == "other":
            self.doubts[f"READER {what} {text[:80]}"] = self.doubts.get(f"READER {what} {text[:80]}", 0) + 1

    async def questions(self, count: int, calm: bool) -> None:
        if calm:
            self.chats.clear()
            await asyncio.sleep(0.5)
        for _ in range(count):
            await self.question(calm)
        self.chats.set()

    def bury(self) -> None:
        for player in list(self.players):
            if player.over:
                self.players.remove(player)
                self.past.append(player)

    async def play(self, seconds: float) -> None:
        acts = {
            self.connect: 14,
            self.subscribe: 30,
            self.unsubscribe: 5,
            self.publish: 30,
            self.publish_big: 4,
            self.stop_reading: 7,
            self.read_again: 12,
            self.end_one: 7,
            self.kill_gateway: 0.8,
            self.cut_links: 1.5,
            self.freeze: 1,
            self.lose_history: 3,
            self.from_the_server: 4,
            self.notify: 5,
        }
        until = time.monotonic() + seconds
        await self.start()
        self.chats = asyncio.Event()
        self.chats.set()
        others = [asyncio.create_task(self.read_durably()), asyncio.create_task(self.chat())]
        try:
            while time.monotonic() < until:
                for act in self.chance.choices(list(acts), list(acts.values()), k=self.chance.choice([3, 10, 25])):
                    await act()
                    self.bury()
                    if self.chance.random() < 0.05:
                        await self.question(False)
                await self.questions(self.chance.choice([4, 10]), True)
        finally:
            for other in others:
                other.cancel()
            await self.stop()
