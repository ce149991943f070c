"""Gateways that share a Valkey but not their secret: their logs and ``gateway check`` name it."""

from __future__ import annotations

import json
from pathlib import Path

import valkey

from gateway.auth.fingerprint import fingerprint
from gateway.config import Tokens

from ..kit.gateways import Start
from ..kit.programs import forked
from ..kit.tokens import SECRET
from ..kit.waiting import until

OTHER = "another secret, which is as long as a good one has to be"
SECONDS = {"gateway.control.secrets_check.CHECK_SECONDS": 0.1}


async def test_gateways_that_do_not_share_their_secret_log_it_and_check_fails(
    start_gateway: Start, valkey_url: str, store: valkey.Valkey, tmp_path: Path
) -> None:
    one = start_gateway(seconds=SECONDS)
    await until(lambda: store.zcard(f"{one.prefix}:fingerprints") == 1, "the first one wrote its fingerprint")
    same = start_gateway(beside=one, seconds=SECONDS)
    await until(lambda: store.zcard(f"{one.prefix}:fingerprints") == 2, "the second one wrote its fingerprint")
    head = f'prefix = "{one.prefix}"\nvalkey_url = "{valkey_url}"\n[tokens]\nhmac_secret = '
    fine = forked(tmp_path / "fine", "check", text=f'{head}"{SECRET}"\n')
    faulty = forked(tmp_path / "faulty", "check", "--json", text=f'{head}"{OTHER}"\n')
    assert "token keys      fine" in fine().succeeds()
    (fault,) = json.loads(faulty().out)["faults"]
    assert "2 of the gateways" in fault and "other secrets or keys" in fault
    assert "other secrets" not in one.log() + same.log()
    other = start_gateway(f'[tokens]\nhmac_secret = "{OTHER}"\n', beside=one, seconds=SECONDS)
    for each in (one, same, other):
        await until(lambda each=each: "check tokens with other secrets or keys" in each.log(), "its log names it")
    assert one.log().count("check tokens with other secrets or keys") == 1, "and once"
    other.stop()
    assert store.zcard(f"{one.prefix}:fingerprints") == 2, "a gateway that ended counts no more"
    assert 0 < store.ttl(f"{one.prefix}:fingerprints") <= 60


def test_the_fingerprint_is_of_what_is_accepted_and_shows_none_of_it() -> None:
    before, during = Tokens(hmac_secret="a", previous_hmac_secrets=["b"]), Tokens(hmac_secret="b", previous_hmac_secrets=["a"])
    assert fingerprint(before, "gw") == fingerprint(during, "gw"), "in the middle of a rotation the same tokens pass"
    different = {fingerprint(each, "gw") for each in (before, Tokens(hmac_secret="a"), Tokens(), Tokens(hmac_secret="a", issuer="i"))}
    assert len(different) == 4 and fingerprint(before, "other") not in different
    assert all(len(each) == 24 and int(each, 16) for each in different)
