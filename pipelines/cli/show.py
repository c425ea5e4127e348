"""How a command shows its result: a text for people, or JSON."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pass_ops import shards


def show(options: Namespace, text: str, result: Any) -> None:
    """The result: a text for people, or under --json one JSON value on standard output."""
    print(json.dumps(result, indent=1, default=str) if options.json else text)


def show_manifest(options: Namespace, folder: str, manifest: shards.Manifest) -> None:
    totals = manifest.totals
    text = f"{folder}: {totals['rows']:,} rows, {totals['tokens']:,} tokens in {totals['parts']} parts"
    show(options, text, {"folder": folder} | asdict(manifest))
