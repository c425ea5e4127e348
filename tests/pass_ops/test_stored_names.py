"""What a dataset stores of its shaping does not depend on where pass_ops keeps its files (decision 090)."""

from __future__ import annotations

import hashlib
import json

import pytest

from pass_ops import ShapingConfig, Weights
from pass_ops.options.config import ESTIMATORS
from pass_ops.options.published import PUBLISHED

NO_FORMAT = Weights(process=1.0, outcome=1.0, format=0.0)
#: of the options of every estimator, taken before the files were moved into rooms (commit 5c32652)
BEFORE = "f3ee0283121b42b98c15862a70aed66f651fda68b08138cdc002dd81e69e5dd7"


def test_the_options_are_stored_as_before_the_move():
    plain = {name: ShapingConfig(estimator=name).plain() for name in ESTIMATORS}
    assert hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest() == BEFORE


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_method_is_stored_by_its_name_or_streams(name):
    plain = ShapingConfig(estimator=name, weights=NO_FORMAT).plain()
    assert "pass_ops" not in json.dumps(plain)
    assert plain["estimator"] == name or plain["streams"]
