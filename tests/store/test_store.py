"""The contract with Valkey, on real ones of each kind: what the layout promises to programs in any language."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection

import pytest
import valkey

from gateway.cli.check import Report, _doubt_database
from gateway.config import Config
from gateway.errors import ConfigurationError, StoreError, Unavailable
from gateway.publication import Position
from gateway.store.access import Commands, make_commands
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Announcement, Layout, Reset, publish_words, read_announcement
from gateway.store.library import BUILT_IN_RULES, VERSION, Library, rules_of
from gateway.store.link import Link

from ..kit.topologies import Store, everywhere, listening
from ..kit.waiting import until

pytestmark = pytest.mark.every_valkey

CONFIG = Config(namespaces={"short": {"history_size": 3}, "forever": {"history_size": -1, "history_ttl": ""}, "none": {"history_size": 0}})


class Recorder:
    """A listener of the link that records what it is called with."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.confirmed: list[bytes] = []
        self.payloads: list[bytes] = []

    def on_up(self) -> None:
        self.states.append("up")

    def on_lost(self, channels: Collection[bytes] | None = None) -> None:
        self.states.append("down")

    def on_subscribed(self, key: bytes = b"") -> None:
        self.confirmed.append(key)

    def on_announcements(self, batch: dict[bytes, list[bytes]]) -> None:
        for payloads in batch.values():
            self.on_payloads(payloads)

    def on_payloads(self, payloads: list[bytes]) -> None:
        self.payloads += payloads

    on_own = on_payloads


@pytest.fixture
async def commands(valkey_url: str) -> AsyncIterator[Commands]:
    commands = make_commands(Address(valkey_url))
    await commands.start()
    yield commands
    await commands.close()


@pytest.fixture
def layout(prefix: str) -> Layout:
    return Layout(prefix)


@pytest.fixture
async def history(commands: Commands, layout: Layout) -> History:
    library = Library(rules_of(CONFIG.channels, CONFIG.namespaces), layout.prefix)
    await library.install(commands)
    return History(commands, layout)


def fcall(store: Store, prefix: str, channel: str, *words: object) -> list:
    base = f"{prefix}:{{{channel}}}"
    return store.execute_command("FCALL", "gateway_publish", 3, f"{base}:meta", f"{base}:stream", f"{base}:keys", *words)


async def read_all(history: History, channel: str) -> list[tuple[int, bytes]]:
    return [(p.offset, p.data) for p in (await history.read(channel, 0, -1)).publications]


async def test_the_keys_of_a_channel_are_the_documented_ones(history: History, store: Store, prefix: str) -> None:
    await history.publish(
        "posts:a", publish_words(b'{"n":1}', idempotency_key="k1", version=7, version_epoch="v", tags=b'{"a":"b"}', info=b'{"user":"u"}')
    )
    base = f"{prefix}:{{posts:a}}"
    meta = store.hgetall(f"{base}:meta")
    assert meta[b"offset"] == b"1" and meta[b"version"] == b"7" and meta[b"version_epoch"] == b"v"
    [(entry, fields)] = store.xrange(f"{base}:stream")
    assert entry.startswith(b"1-") and len(entry) == len(b"1-1700000000000")
    assert fields == {b"data": b'{"n":1}', b"tags": b'{"a":"b"}', b"info": b'{"user":"u"}'}
    assert store.zrange(f"{base}:keys", 0, -1, withscores=True) == [(b"k1", 1.0)]


async def test_a_repeated_key_returns_the_first_position_and_announces_nothing(history: History, store: Store, prefix: str) -> None:
    with listening(store, f"{prefix}:{{posts:a}}") as announced:
        first = await history.publish("posts:a", publish_words(b"1", idempotency_key="once"))
        await history.publish("posts:a", publish_words(b"2"))
        assert await history.publish("posts:a", publish_words(b"3", idempotency_key="once")) == first
        await history.publish("posts:a", publish_words(b"4"))
        messages = []
        while len(messages) < 3:
            payload = announced(5)
            assert payload is not None
            messages.append(payload.partition(b"\n")[2])
        assert messages == [b"1", b"2", b"4"]


async def test_a_repeated_key_of_a_publication_without_history_is_recognized(history: History) -> None:
    assert await history.publish("posts:a", publish_words(b"1", idempotency_key="k", ttl=0)) is None
    assert await history.publish("posts:a", publish_words(b"1", idempotency_key="k")) is None
    assert (await history.read("posts:a")).top.offset == 0


async def test_keys_of_publications_without_history_outlive_the_first_hour_of_their_channel(
    history: History, store: Store, prefix: str
) -> None:
    await history.publish("none:a", publish_words(b"1", idempotency_key="k1"))
    store.expire(f"{prefix}:{{none:a}}:meta", 2)  # an hour later
    await history.publish("none:a", publish_words(b"2", idempotency_key="k2"))
    assert store.ttl(f"{prefix}:{{none:a}}:meta") >= store.ttl(f"{prefix}:{{none:a}}:keys") > 290, "without a counter the keys are void"


async def test_a_version_that_is_not_newer_is_dropped(history: History) -> None:
    words = [(5, ""), (5, ""), (4, ""), (6, ""), (1, "other"), (2**64 - 1, "other"), (2**64 - 2, "other")]
    for number, (version, epoch) in enumerate(words):
        await history.publish("posts:a", publish_words(b"%d" % number, version=version, version_epoch=epoch or None))
    assert [data for _, data in await read_all(history, "posts:a")] == [b"0", b"3", b"4", b"5"]


async def test_history_is_trimmed_to_the_rules_of_the_namespace(history: History) -> None:
    for number in range(5):
        await history.publish("short:a", publish_words(b"%d" % number))
    assert await read_all(history, "short:a") == [(3, b"2"), (4, b"3"), (5, b"4")]


async def test_size_and_ttl_of_a_publish_override_the_rules(history: History, store: Store, prefix: str) -> None:
    for number in range(5):
        await history.publish("short:a", publish_words(b"%d" % number, size=4, ttl=1000))
    assert len(await read_all(history, "short:a")) == 4
    assert 990 < store.ttl(f"{prefix}:{{short:a}}:stream") <= 1000


async def test_the_counter_never_dies_before_the_history(history: History, store: Store, prefix: str) -> None:
    await history.publish("short:a", publish_words(b"1", ttl=40 * 86400))
    await history.publish("forever:a", publish_words(b"1"))
    assert store.ttl(f"{prefix}:{{short:a}}:meta") >= store.ttl(f"{prefix}:{{short:a}}:stream")
    assert store.ttl(f"{prefix}:{{forever:a}}:meta") == store.ttl(f"{prefix}:{{forever:a}}:stream") == -1


async def test_a_history_whose_counter_is_gone_begins_a_new_epoch(history: History, store: Store, prefix: str) -> None:
    first = await history.publish("posts:a", publish_words(b"1", idempotency_key="k"))
    store.delete(f"{prefix}:{{posts:a}}:meta")
    second = await history.publish("posts:a", publish_words(b"2", idempotency_key="k"))
    assert first and second and second.offset == 1 and second.epoch != first.epoch
    assert await read_all(history, "posts:a") == [(1, b"2")]


async def test_a_stream_that_somebody_else_wrote_to_begins_a_new_epoch(history: History, store: Store, prefix: str) -> None:
    first = await history.publish("posts:a", publish_words(b"1"))
    store.xadd(f"{prefix}:{{posts:a}}:stream", {"data": "x"}, id="9-9")
    second = await history.publish("posts:a", publish_words(b"2"))
    assert first and second and second.epoch != first.epoch and second.offset == 1


async def test_a_publication_without_history_leaves_no_keys(history: History, store: Store, prefix: str) -> None:
    assert await history.publish("none:a", publish_words(b"1")) is None
    assert await history.publish("posts:a", publish_words(b"1", ttl=0)) is None
    assert store.keys(f"{prefix}:{{*") == []


async def test_reading_the_position_of_a_new_channel_creates_its_epoch(history: History) -> None:
    page = await history.read("posts:a")
    assert page.top.epoch and page.top.offset == 0
    position = await history.publish("posts:a", publish_words(b"1"))
    assert position == Position(page.top.epoch, 1)


async def test_history_is_read_in_both_directions_and_in_pages(history: History) -> None:
    for number in range(1, 8):
        await history.publish("posts:a", publish_words(b"%d" % number))

    async def offsets(*args: int, **options: bool) -> list[int]:
        return [p.offset for p in (await history.read("posts:a", *args, **options)).publications]

    assert await offsets(0, 3) == [1, 2, 3]
    assert await offsets(3, 3) == [4, 5, 6]
    assert await offsets(7, 3) == []
    assert await offsets(0, 3, reverse=True) == [7, 6, 5]
    assert await offsets(5, 3, reverse=True) == [4, 3, 2]
    assert await offsets(0, -1) == [1, 2, 3, 4, 5, 6, 7]
    assert await offsets(0, 0) == []


async def test_a_page_is_bounded_in_bytes_and_holds_at_least_one(history: History) -> None:
    big = json.dumps("x" * 1000).encode()
    for _ in range(5):
        await history.publish("posts:a", publish_words(big))
    assert len((await history.read("posts:a", 0, -1, max_bytes=2500)).publications) == 2
    assert len((await history.read("posts:a", 0, -1, max_bytes=1)).publications) == 1


async def test_a_history_longer_than_a_page_is_read_whole(history: History) -> None:
    await asyncio.gather(*[history.publish("forever:a", publish_words(b"%d" % n)) for n in range(700)])
    assert [offset for offset, _ in await read_all(history, "forever:a")] == list(range(1, 701))


@pytest.mark.one_server  # a cluster itself refuses keys of several slots
async def test_keys_that_are_not_those_of_one_channel_are_refused(history: History, store: Store, prefix: str) -> None:
    for keys in (["a", "b", "c"], [f"{prefix}:{{a}}:meta", f"{prefix}:{{b}}:stream", f"{prefix}:{{a}}:keys"]):
        with pytest.raises(valkey.ResponseError, match="GATEWAY the keys"):
            store.execute_command("FCALL", "gateway_publish", 3, *keys, "1")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("1", "size", "many"), "size is a whole number"),
        (("1", "colour", "red"), "colour is not one of"),
        (("1", "key"), "has no value"),
        (("1", "tags", "[1]"), "tags is a JSON object"),
        (("1", "info", "{"), "info is a JSON object"),
        (("1", "version", "-1"), "version is a whole number"),
        (("",), "no data"),
    ],
)
async def test_wrong_arguments_are_named(history: History, store: Store, prefix: str, words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(valkey.ResponseError, match=complaint):
        fcall(store, prefix, "posts:a", *words)
    assert (await history.read("posts:a")).top.offset == 0


async def test_a_valkey_without_the_functions_gets_them_again(
    history: History, commands: Commands, layout: Layout, valkey_url: str
) -> None:
    await history.publish("short:a", publish_words(b"1"))
    library = Library(None, layout.prefix)  # of a publisher without a configuration
    others = make_commands(Address(valkey_url), functions=library)
    await others.start()
    await everywhere(commands, "FUNCTION", "FLUSH")
    stranger = History(others, layout)
    for number in range(5):
        await stranger.publish("short:a", publish_words(b"%d" % number))
    await others.close()
    assert len(await read_all(history, "short:a")) == 3, "the gateways' rules were kept for it"


async def test_an_older_library_is_replaced_and_a_newer_one_stays(commands: Commands, layout: Layout) -> None:
    library = Library(rules_of(CONFIG.channels, CONFIG.namespaces), layout.prefix)
    await library.install(commands)
    newer = library.source({"": {"": {"size": 1, "ttl": 1, "meta_ttl": 1}}}).replace(
        f"name=gateway_{VERSION}", f"name=gateway_{VERSION + 1}"
    )
    await everywhere(commands, "FUNCTION", "FLUSH")
    await everywhere(commands, "FUNCTION", "LOAD", newer)
    try:
        await library.install(commands)
        assert not await library.agrees(commands), "the newer one is still there"
    finally:
        await everywhere(commands, "FUNCTION", "FLUSH")
    older = newer.replace(f"name=gateway_{VERSION + 1}", "name=gateway_0")
    await everywhere(commands, "FUNCTION", "LOAD", older)
    await library.install(commands)
    assert await library.agrees(commands)


async def test_a_publisher_replaces_an_older_library_which_lacks_functions_and_the_rules_stay(
    history: History, commands: Commands, layout: Layout, valkey_url: str
) -> None:
    library = Library(rules_of(CONFIG.channels, CONFIG.namespaces), layout.prefix)
    older = (
        library.source({"": BUILT_IN_RULES, "other": BUILT_IN_RULES})
        .replace(f"'{VERSION}.", "'")
        .replace("gateway_index", "gateway_missing")
    )
    await everywhere(commands, "FUNCTION", "FLUSH")
    await everywhere(commands, "FUNCTION", "LOAD", older.replace(f"name=gateway_{VERSION}", f"name=gateway_{VERSION - 1}"))
    others = make_commands(Address(valkey_url), functions=Library(None, layout.prefix))
    await others.start()
    await History(others, layout).publish("short:a", publish_words(b"1"))
    await others.close()
    assert await library.agrees(commands) and await Library(BUILT_IN_RULES, "other").agrees(commands)


async def test_gateways_with_different_prefixes_have_rules_of_their_own(commands: Commands) -> None:
    spaces = [{"short": {"history_size": size}} for size in (2, 3)]
    histories = []
    for number, namespaces in enumerate(spaces):
        config = Config(namespaces=namespaces)
        layout = Layout(f"rules{number}")
        library = Library(rules_of(config.channels, config.namespaces), layout.prefix)
        await library.install(commands)
        histories.append(History(commands, layout))
    for history in histories:
        for number in range(5):
            await history.publish("short:a", publish_words(b"%d" % number))
    assert [len(await read_all(history, "short:a")) for history in histories] == [2, 3]


async def test_the_link_brings_announcements_in_order(history: History, commands: Commands, layout: Layout, valkey_url: str) -> None:
    link = Link(Address(valkey_url), commands, layout.own_channel("test"))
    recorder = Recorder()
    link.add_listener(recorder)
    await link.start()
    try:
        key = layout.channel("posts:a")
        link.subscribe([key])
        await until(lambda: recorder.confirmed == [key], "Valkey confirms")
        await asyncio.gather(*[history.publish("posts:a", publish_words(b"%d" % n)) for n in range(1000)])
        await until(lambda: len(recorder.payloads) == 1000, "all are announced")
        items = [read_announcement(payload) for payload in recorder.payloads]
        assert [item.publication.offset for item in items if isinstance(item, Announcement)] == list(range(1, 1001))
    finally:
        await link.close()


@pytest.mark.one_server  # test_link_cluster.py has it for shards
async def test_a_cut_link_reconnects_and_reports_it(history: History, commands: Commands, layout: Layout, valkey_url: str) -> None:
    link = Link(Address(valkey_url), commands, layout.own_channel("cut"))
    recorder = Recorder()
    link.add_listener(recorder)
    link.add_up_listener(recorder)
    await link.start()
    try:
        assert recorder.states == ["up"] and link.proven
        await commands.call("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: recorder.states == ["up", "down", "up"], "the link is back")
        await until(lambda: link.proven, "a heartbeat came through again")
    finally:
        await link.close()


@pytest.mark.one_server  # test_cluster.py has it for shards
async def test_commands_under_way_fail_when_the_connection_breaks_and_later_ones_work(valkey_url: str) -> None:
    commands = make_commands(Address(valkey_url))
    await commands.start()
    try:
        own_id = await commands.call("CLIENT", "ID")
        waiting = asyncio.ensure_future(commands.call("BLPOP", "nothing-ever-comes", "0"))
        killer = make_commands(Address(valkey_url))
        await killer.start()
        await until(lambda: not waiting.done(), "it waits")
        await killer.call("CLIENT", "KILL", "ID", own_id)
        await killer.close()
        with pytest.raises(Unavailable):
            await waiting
        assert await commands.call("ECHO", "again") == b"again"
    finally:
        await commands.close()


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b'{"typing":"u1"}', "ephemeral"),
        (b"", "ephemeral"),
        (b"@", "ephemeral"),
        (b"@1 e", "ephemeral"),
        (b"@x e 1\n{}", "ephemeral"),
        (b"@1 e 1 {broken\n{}", "ephemeral"),
        (b"@1 e 1700000000000\n{}", "publication"),
        (b'@1 e 1700000000000 {"tags":{"a":"b"},"info":{},"size":3}\n{}', "publication"),
        (b"@reset e2 7", "reset"),
        (b"\xff\xfe", "ephemeral"),
    ],
)
def test_any_bytes_are_read_as_an_announcement(payload: bytes, kind: str) -> None:
    item = read_announcement(payload)
    if kind == "reset":
        assert isinstance(item, Reset) and (item.epoch, item.offset) == ("e2", 7)
        return
    assert isinstance(item, Announcement)
    json.loads(item.publication.data)
    assert bool(item.publication.offset) == (kind == "publication")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://localhost", "does not begin with one of"),
        ("valkey+sentinel://h:1", "ends with the service's name"),
        ("valkey+cluster://h:1/3", "has no databases"),
        ("valkey://h/mymaster", "the number of a database"),
        ("valkey://h/1/3", "the number of a database"),
        ("valkey://h?timeout=5", "there is no option timeout; there are db, username, password, and those of TLS"),
        ("valkey://h/0?decode_responses=true", "no option decode_responses"),
        ("valkey+sentinel://h/service?protocol=3", "no option protocol"),
        ("valkey+cluster://h?ssl=true", "no option ssl;"),
        ("valkey://user:secret@[", "Invalid IPv6"),
        ("valkey://user:sec?ret@host", "login in 'valkey://…' does not end"),
        ("valkey://:12?secret@host", "does not end"),
        ("valkeys://user:sec/ret@host/0", "does not end"),
        ("valkey://user:sec#ret@host", "does not end"),
        ("valkey://host?password=sec@ret", "does not end"),
        ("valkey+sentinel://user:sec?ret@h1:1,h2:2/service", "does not end"),
        ("unix://user:sec/ret@/run/valkey.sock", "does not end"),
        ("valkey://user:secret@host:secret", "integer"),
        ("valkey+sentinel://host:secret/service", "int"),
        ("valkey://user:sec\u2100ret@host", "invalid characters"),
        ("http://user:sec?ret@host", "does not begin"),
        ("valkey:secret@host", "does not begin"),
    ],
)
def test_an_impossible_address_is_named_without_its_password(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as raised:
        Address(url)
    assert "sec" not in str(raised.value) and "ret" not in str(raised.value) and "12" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("valkey://user:sec@ret@host:1/0", "valkey://…@host:1/0"),
        ("valkey://user:sec:ret@host", "valkey://…@host"),
        ("redis://host:1/0?password=secret", "valkey://host:1/0"),
        ("unix://user:secret@/run/app@1/valkey.sock?db=0", "unix://…@/run/app@1/valkey.sock"),
        ("unix:///run/app@1/valkey.sock", "unix:///run/app@1/valkey.sock"),
        ("valkey+sentinel://user:secret@h1:1,h2:2/service", "valkey+sentinel://…@h1:1,h2:2/service"),
    ],
)
def test_an_address_is_shown_without_its_login(url: str, shown: str) -> None:
    assert str(Address(url)) == shown


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("valkey://h", 0),
        ("valkey://h/0", 0),
        ("valkey://u:p@h:1/3", 3),
        ("valkeys://h/3", 3),
        ("unix:///run/valkey.sock?db=3", 3),
        ("valkey+sentinel://h:1/service?db=3", 3),
        ("valkey+cluster://h:1", 0),
    ],
)
def test_check_warns_of_a_database_which_separates_keys_alone(url: str, database: int) -> None:
    """Pub/Sub is one for all databases: a gateway of the same prefix in another one gets the ephemeral publications, and the orders."""
    report = Report()
    _doubt_database(Address(url), "gw", report)
    assert [f"names database {database}" in warning for warning in report.warnings] == [True] * bool(database)


async def test_an_address_where_nothing_listens_raises_unavailable_with_one_line(unused_tcp_port: int) -> None:
    with pytest.raises(Unavailable, match=f"no Valkey at valkey://127.0.0.1:{unused_tcp_port}"):
        await make_commands(Address(f"redis://127.0.0.1:{unused_tcp_port}")).start()


async def test_a_refused_command_raises_the_words_of_valkey(commands: Commands) -> None:
    with pytest.raises(StoreError, match="unknown command"):
        await commands.call("NONSENSE")


def test_options_of_a_publication_become_names_and_values_and_absent_ones_nothing() -> None:
    tags = {"lang": "de"}
    expected = [b"1", "key", "k", "ttl", 0, "tags", b'{"lang":"de"}']
    assert publish_words(b"1", idempotency_key="k", version=None, ttl=0, tags=tags) == expected
    assert publish_words(b"1", info=b'{"user":"u"}') == [b"1", "info", b'{"user":"u"}']
