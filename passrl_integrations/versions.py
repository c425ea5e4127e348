"""Which versions of a trainer a plug-in or a patch was written for and tested with; others are refused by name."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from pass_ops.errors import PassError

#: distribution -> the releases whose source the plug-in was read against, as (major, minor)
SUPPORTED: dict[str, tuple[tuple[int, int], ...]] = {
    "trl": ((1, 16),),
    "verl": ((0, 9),),
    "slime": ((0, 3),),
    "skyrl": ((0, 3),),
}
#: the same for the patches on docs/how-to/keep-your-trainer.md
PATCHED: dict[str, tuple[tuple[int, int], ...]] = {
    "nemo-rl": ((0, 6), (0, 7)),
    "openrlhf": ((0, 11),),
}


class UnsupportedPeerError(PassError, ImportError):
    """The trainer that a plug-in or a patch hooks into is missing, or of a version that it does not know."""


def require(name: str) -> str:
    """The installed version of trainer `name`.

    Raises:
        UnsupportedPeerError: it is not installed, or of a release that is in neither SUPPORTED nor PATCHED.
    """
    releases = {**SUPPORTED, **PATCHED}[name]
    known = ", ".join(f"{major}.{minor}.*" for major, minor in releases)
    who = f"passrl_integrations.{name}" if name in SUPPORTED else f"the patch for {name}"
    try:
        found = version(name)
    except PackageNotFoundError:
        raise UnsupportedPeerError(
            f"{who} hooks into {name}, which is not installed here; install {name} {known}"
        ) from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) not in releases:
        raise UnsupportedPeerError(
            f"{name} {found} is not supported: {who} uses functions that {name} may change or "
            f"move between releases, and knows {known}; install one of these, or call "
            "pass_ops.torch.token_advantages_from_batch from your own hook"
        )
    return found
