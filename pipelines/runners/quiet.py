"""Beam, imported without its warning that Google's client libraries are absent, and with its own log turned down."""

from __future__ import annotations

import logging

_disabled = logging.root.manager.disable
logging.disable(max(_disabled, logging.WARNING))
try:
    import apache_beam as beam
    from apache_beam.internal import pickler
finally:
    logging.disable(_disabled)
# Beam logs each worker's traceback where it happens; the same text arrives in the error that the client reports.
logging.getLogger("apache_beam").setLevel(logging.CRITICAL)

__all__ = ["beam", "pickler"]
