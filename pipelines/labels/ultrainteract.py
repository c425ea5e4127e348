"""UltraInteract (pairs): at a node of a tree of turns, an action that was right and one that was wrong.

One row a pair: task, dataset, trajectory [{from, value}] (the turns so far, the user's first), chosen, rejected, id,
parent_id. What is labelled is a whole action after those turns, so each row gives two solutions of one step; several
turns are put into the problem one after the other. Whether earlier actions were right is not said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.labels.record import NO_ERROR, LabelFormat, LabelledSolution
from pipelines.rows.fields import FIELDS, LABELS, as_object, list_of, of, step, text
from pipelines.rows.record import RowError

SPEAKERS = ("user", "assistant")


def read(row: Mapping[str, Any], _key: str, where: str) -> Iterator[LabelledSolution]:
    """The chosen action, then the rejected one; their keys end in /chosen and /rejected."""
    turns = [as_object(turn, f"trajectory[{at}]") for at, turn in enumerate(list_of(row, "trajectory"))]
    if not turns:
        raise RowError(FIELDS, "trajectory is empty, so the actions answer nothing")
    speakers = [of(turn, "from") for turn in turns]
    expected = [SPEAKERS[at % 2] for at in range(len(turns))]
    if speakers != expected or speakers[-1] != "user":
        raise RowError(FIELDS, f"trajectory is of {', '.join(map(repr, speakers))}: turns go from user to user")
    values = [step(of(turn, "value"), f"trajectory[{at}].value") for at, turn in enumerate(turns)]
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    if chosen == rejected:
        raise RowError(LABELS, "chosen and rejected are one and the same, so neither label can be believed")
    for name, action, right in (("chosen", chosen, True), ("rejected", rejected, False)):
        yield LabelledSolution(
            key=f"{text(row, 'id')}/{name}",
            problem="\n\n".join(values),
            steps=(action,),
            labels=(right,),
            first_error=NO_ERROR if right else 0,
            where=where,
        )


ULTRAINTERACT = LabelFormat(
    name="ultrainteract",
    read=read,
    between="\n\n",
    judged_by="its maker",
    after_error=False,
    source="Yuan et al., arXiv 2404.02078; data set openbmb/UltraInteract_pair",
)
