"""Beam, imported without its warning that Google's client libraries are absent, and with its own log turned down."""

from __future__ import annotations

import logging

from pass_ops.support.garbage import no_search_for_cycles

# Beam logs each worker's traceback where it happens; the same text arrives in the error that the client reports.
logging.getLogger("apache_beam").setLevel(logging.CRITICAL)


def _is_from_elsewhere(record: logging.LogRecord) -> bool:
    return "apitools not found" not in str(record.msg)


# A filter, not logging.disable: that one is the process's, and an engine that starts in another thread meanwhile saves
# and restores it too (vLLM), which left every warning of the process turned off.
logging.root.addFilter(_is_from_elsewhere)
try:
    with no_search_for_cycles():
        import apache_beam as beam
        from apache_beam.internal import pickler
finally:
    logging.root.removeFilter(_is_from_elsewhere)

__all__ = ["beam", "pickler"]
