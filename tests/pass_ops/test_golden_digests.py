"""Old options make the bits and the description that they made before streams came: stored digests of 113 of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden_digests import configurations, digest

STORED = json.loads((Path(__file__).parent / "golden_digests.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("estimator", sorted({name.split()[0] for name in configurations()}))
def test_every_old_option_makes_the_same_bits_and_the_same_description(estimator):
    chosen = {name: config for name, config in configurations().items() if name.split()[0] == estimator}
    assert {name: digest(config) for name, config in chosen.items()} == {name: STORED[name] for name in chosen}


def test_every_stored_digest_is_compared():
    assert set(STORED) == set(configurations())
