"""The oracle of streams against the oracle of the estimators: neither shares code with the other or with pass_ops."""

from __future__ import annotations

import oracle
import pytest
from bounded import Bounded
from estimators_as_streams import ROWS, WITH_CHUNKS, as_streams, as_table, has_row
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle_streams import Shaped, shape_table
from strategies import SIGNALS, examples, groups, options


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("estimator", ROWS)
@examples(10)
@given(data=st.data())
def test_the_streams_of_an_estimator_give_its_advantages(estimator, signal, data):
    chosen, columns = data.draw(options(estimator, signal))
    some = data.draw(groups(signal, columns=columns, least=1))
    assume(has_row(chosen, some))
    table = as_table(some)
    found = shape_table(table, as_streams(chosen, gated="format_ok" in table.columns))
    for group, streams in zip(some, found, strict=True):
        chosen.fragile.clear()
        expected = oracle.shape_group(group, chosen)
        if chosen.fragile or streams is None:
            continue
        for want, got in zip(expected, streams, strict=True):
            check(want, got, whole=estimator in WITH_CHUNKS)


def check(want: oracle.Shaped, got: Shaped, *, whole: bool) -> None:
    assert got.trainable == want.trainable
    slack = 1e-13 * want.size + 1e-45
    for x, a in zip(spread(want.ends, want.advantages), spread(got.ends, got.advantages), strict=True):
        assert abs(x - a.x) <= 1e-12 * abs(x) + slack + a.err, (want, got)
    if whole:
        assert got.ends == want.ends
        assert (got.path is None) == (want.path is None)
        if got.path:
            assert abs(got.path.x - want.path) <= 1e-12 * abs(want.path) + slack + got.path.err


def spread(ends: list[int], values: list) -> list[float] | list[Bounded]:
    return [v for start, end, v in zip([0, *ends], ends, values, strict=False) for _ in range(start, end)]
