"""A plug-in loads with the releases it was written for, and refuses others by name."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from passrl_integrations import versions
from passrl_integrations.versions import PATCHED, SUPPORTED, UnsupportedPeerError, require

ROOT = Path(__file__).resolve().parents[2]
RELEASES = {**SUPPORTED, **PATCHED}


def installed(monkeypatch, number: str | None) -> None:
    """Lets every trainer have this version; None: none is installed."""

    def version(name):
        if number is None:
            raise PackageNotFoundError(name)
        return number

    monkeypatch.setattr(versions, "version", version)


@pytest.mark.parametrize("name", RELEASES)
def test_a_supported_release_is_taken_whatever_comes_after_its_two_numbers(monkeypatch, name):
    for major, minor in RELEASES[name]:
        for rest in ("", ".0", ".7", ".0.dev3", ".0+local"):
            installed(monkeypatch, f"{major}.{minor}{rest}")
            assert require(name) == f"{major}.{minor}{rest}"


@pytest.mark.parametrize("number", ["0.0.1", "1.160.0", "99.0", "unknown", "1.1"])
def test_another_release_is_refused_with_both_versions(monkeypatch, number):
    installed(monkeypatch, number)
    message = rf"^trl {re.escape(number)} is not supported: passrl_integrations\.trl .* knows 1\.16\.\*; install"
    with pytest.raises(UnsupportedPeerError, match=message):
        require("trl")


@pytest.mark.parametrize("number", ["0.0.0", "0.5.0", "1.0"])
@pytest.mark.parametrize("name", PATCHED)
def test_another_release_is_refused_by_a_patch_too(monkeypatch, name, number):
    installed(monkeypatch, number)
    with pytest.raises(UnsupportedPeerError, match=rf"^{name} {number} is not supported: the patch for {name} uses"):
        require(name)


@pytest.mark.parametrize("name", RELEASES)
def test_without_its_trainer_a_plug_in_says_what_to_install(monkeypatch, name):
    installed(monkeypatch, None)
    with pytest.raises(
        UnsupportedPeerError, match=rf"hooks into {name}, which is not installed here; install {name} \d"
    ):
        require(name)
    assert issubclass(UnsupportedPeerError, ImportError)


@pytest.mark.parametrize("name", SUPPORTED)
def test_importing_a_plug_in_checks_the_version_before_it_touches_the_trainer(monkeypatch, name):
    """Also where the trainer is there, and has moved what the plug-in imports."""
    installed(monkeypatch, "99.0")
    monkeypatch.delitem(sys.modules, f"passrl_integrations.{name}", raising=False)
    with pytest.raises(UnsupportedPeerError, match=rf"^{name} 99\.0 is not supported"):
        importlib.import_module(f"passrl_integrations.{name}")


def test_the_pinned_peers_are_releases_that_the_plug_ins_know():
    pins = dict(line.split("==") for line in (ROOT / "requirements" / "peers.in").read_text().split() if "==" in line)
    alone = (ROOT / "requirements" / "peers-alone.txt").read_text().split()
    pins |= dict(line.split("==") for line in alone if "==" in line)
    for name in ("trl", "verl", "skyrl", "openrlhf"):
        assert tuple(map(int, pins[name].split(".")[:2])) in RELEASES[name]
    listed = (ROOT / "requirements" / "peers.txt").read_text()
    assert all(f"\n{name}=={pins[name]}" in f"\n{listed}".lower() for name in ("trl", "verl"))
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == "passrl"
