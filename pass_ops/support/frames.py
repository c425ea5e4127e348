"""What a kept exception keeps alive, let go."""

from __future__ import annotations

import traceback


def clear_frames(error: BaseException) -> None:
    """Empty the local variables of every finished frame in the tracebacks of an exception and of its causes.

    A traceback refers to its frames, and those to their locals: of a failed update to the model and its optimizer,
    on the GPU, for as long as anybody holds the exception. It can still be printed afterwards.
    """
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        pending += [cause for cause in (current.__cause__, current.__context__) if cause is not None]
        pending += current.exceptions if isinstance(current, BaseExceptionGroup) else ()
