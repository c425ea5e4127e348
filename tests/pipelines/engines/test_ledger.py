"""Who holds the device: the order in which engines and the trainer take it, on a card of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.engines import DeviceHeldError, EngineOptions, WeightsMismatchError, acquire, release
from pipelines.engines.ledger import Ledger, serves
from pipelines.engines.machine import GIB, Gpu, Machine, Memory

POLICY = EngineOptions(kind="transformers")
PRM = EngineOptions(kind="transformers", pooling={})


class Card:
    """80 GiB, and who holds how many of them."""

    def __init__(self) -> None:
        self.held: dict[Any, float] = {}
        self.log: list[str] = []

    def meter(self) -> Memory:
        return Memory(free=int((80 - sum(self.held.values())) * GIB), total=80 * GIB)


class FakeEngine:
    """Takes 70 GiB awake and keeps `asleep` GiB asleep; a folder that ends in "other" is of another architecture."""

    def __init__(self, card: Card, name: str, *, asleep: float = 2.0) -> None:
        self.card, self.name, self.kept = card, name, asleep
        self.asleep = self.dead = False
        self.tell("start", 70)

    def tell(self, what: str, gib: float) -> None:
        self.card.log.append(f"{what} {self.name}")
        self.card.held[self] = gib
        assert sum(self.card.held.values()) <= 80, "the card is full"

    def sleep(self) -> None:
        self.asleep = True
        self.tell("sleep", self.kept)

    def wake(self, model: str) -> None:
        self.load(model)
        self.asleep = False
        self.tell("wake", 70)

    def load_weights(self, model: str) -> None:
        self.load(model)
        self.tell("load", 70)

    def load(self, model: str) -> None:
        if model.endswith("other"):
            raise WeightsMismatchError("another architecture")

    def close(self) -> None:
        self.dead = True
        self.tell("end", 0)


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def make(card: Card, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ledger]:
    """A ledger of the card, whose engines are called as their models are."""
    monkeypatch.setattr("pipelines.engines.ledger.weights_identity", lambda model: ((model, 0, 0),))

    def make(*, beside: bool = True, asleep: float = 2.0) -> Ledger:
        def start(model: str, options: EngineOptions) -> Any:
            return FakeEngine(card, model, asleep=asleep)

        return Ledger(start=start, beside=start if beside else None, meter=card.meter)

    return make


def test_a_round_on_one_device_hands_it_from_one_to_the_next(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()
    for round_index in range(2):
        policy = ledger.engine(f"policy-{round_index}", POLICY)
        ledger.engine("prm", PRM)
        with ledger.lent("the trainer"):
            assert [holder.asleep for holder in card.held if not holder.dead] == [True], "nothing else is left"
            card.held["the trainer"] = 60
            card.log.append("train")
            del card.held["the trainer"]
        assert ledger.engine(f"policy-{round_index}", POLICY) is policy, "evaluation wakes the same engine"
    one_round = ["sleep policy-0", "start prm", "end prm", "train", "wake policy-0"]
    assert card.log == ["start policy-0", *one_round, "load policy-0", *one_round]


def test_at_rest_the_card_is_free_and_the_engine_that_samples_wakes_again(
    card: Card, make: Callable[..., Ledger]
) -> None:
    ledger = make()
    policy = ledger.engine("policy", POLICY)
    ledger.rest()
    ledger.rest()
    assert policy.asleep
    ledger.engine("prm", PRM)
    ledger.rest()
    assert ledger.engine("next", POLICY) is policy
    assert card.log == ["start policy", "sleep policy", "start prm", "end prm", "wake policy"]


def test_an_engine_that_would_not_sleep_is_told_of_at_rest(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make(asleep=40.0)
    ledger.engine("policy", POLICY)
    with pytest.raises(DeviceHeldError, match="put to sleep but still holds"):
        ledger.rest()


def test_without_a_process_beside_it_the_engine_that_samples_ends(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make(beside=False)
    ledger.engine("policy", POLICY)
    ledger.engine("prm", PRM)
    ledger.engine("policy", POLICY)
    assert card.log == ["start policy", "end policy", "start prm", "end prm", "start policy"]


def test_an_engine_whose_architecture_differs_is_replaced(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()
    ledger.engine("policy", POLICY)
    ledger.engine("other", POLICY)
    assert card.log == ["start policy", "end policy", "start other"]
    with ledger.lent("the trainer"):
        pass
    ledger.engine("another-other", POLICY)
    assert card.log[3:] == ["sleep other", "end other", "start another-other"], "asleep, too"


def test_an_engine_that_does_not_give_the_device_up_is_named_with_what_it_holds(make: Callable[..., Ledger]) -> None:
    ledger = make(asleep=60.0)
    ledger.engine("policy", POLICY)
    sentence = r"the sampling engine of policy .* still holds 60\.0 GiB of 70\.0 GiB"
    with pytest.raises(DeviceHeldError, match=sentence), ledger.lent("the trainer"):
        raise AssertionError("the trainer must not start")


def test_a_trainer_that_leaves_something_behind_is_told_how_much(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()
    ledger.engine("policy", POLICY)
    sentence = r"the trainer is done but 23\.0 GiB more of the device are held"
    with pytest.raises(DeviceHeldError, match=sentence), ledger.lent("the trainer"):
        card.held["optimizer"] = 23


def test_a_trainers_own_error_is_what_comes_out_whatever_it_left(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()

    def fail() -> None:
        card.held["optimizer"] = 23
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ledger.lent("the trainer"):
        fail()
    with ledger.lent("the next one"):
        pass


def test_nothing_wakes_where_another_process_took_the_card(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()
    ledger.engine("policy", POLICY)
    with ledger.lent("the trainer"):
        pass
    card.held["somebody else"] = 40
    with pytest.raises(
        DeviceHeldError,
        match=r"68\.0 GiB of the device are needed to wake .*, but 38\.0 GiB of 80\.0 GiB are free.*\(asleep\)",
    ):
        ledger.engine("policy", POLICY)
    del card.held["somebody else"]
    assert ledger.engine("policy", POLICY).asleep is False


def test_vllm_does_not_start_on_a_card_in_use(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()
    card.held["somebody else"] = 20
    with pytest.raises(DeviceHeldError, match=r"72\.0 GiB of the device are needed to start an engine on policy"):
        ledger.engine("policy", EngineOptions())
    assert card.log == []


def test_no_engine_starts_while_the_device_is_lent(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()
    with ledger.lent("the trainer"):
        with pytest.raises(DeviceHeldError, match="the trainer has the device"):
            ledger.engine("policy", POLICY)
        with pytest.raises(DeviceHeldError, match="the trainer has the device"), ledger.lent("a second one"):
            pass
    assert card.log == []


def test_a_dead_engine_is_replaced(card: Card, make: Callable[..., Ledger]) -> None:
    ledger = make()
    ledger.engine("policy", POLICY).close()
    ledger.engine("policy", POLICY)
    assert card.log == ["start policy", "end policy", "end policy", "start policy"]


def test_without_a_device_the_order_is_the_same_and_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engines.ledger.weights_identity", lambda model: ((model, 0, 0),))
    engines: list[Any] = []

    def start(model: str, options: EngineOptions) -> Any:
        engines.append(SimpleNamespace(asleep=False, dead=False, sleep=lambda: setattr(engines[-1], "asleep", True)))
        return engines[-1]

    ledger = Ledger(start=start, meter=lambda: None)
    ledger.engine("policy", EngineOptions())
    with ledger.lent("the trainer"):
        assert [engine.asleep for engine in engines] == [True]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (EngineOptions(), "here"),
        (EngineOptions(deterministic=True), (0,)),
        (EngineOptions(deterministic=True, extra={"tensor_parallel_size": 2}), (0, 1)),
    ],
    ids=["plain", "deterministic", "deterministic TP 2"],
)
def test_on_a_gpu_what_would_change_the_trainers_kernels_runs_in_a_child(
    options: EngineOptions, where: Any, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    gpu = Gpu(index=0, name="H100", memory=Memory(free=79 * GIB, total=80 * GIB))
    started: list[Any] = []
    module = import_module("pipelines.engines.acquire")  # a name that its function has, too

    def start(place: Any) -> Any:
        started.append(place)
        return SimpleNamespace(asleep=False, dead=False, close=lambda: None, sleep=lambda: None)

    monkeypatch.setattr(module, "this_machine", lambda: Machine(gpus=(gpu,), driver="580"))
    monkeypatch.setattr(module, "device_kind", lambda: "cuda")
    monkeypatch.setattr(module, "start_engine", lambda model, options: start("here"))
    monkeypatch.setattr("pipelines.engines.node.start", lambda model, options, gpus: start(gpus))
    acquire(tiny_model, options)
    acquire(tiny_model, replace(options, pooling={}))
    release()
    beside = (0, 1) if options.extra else (0,)
    assert started == [where, beside], "a reward model beside it does in any case"


@pytest.mark.parametrize(
    ("running", "wanted", "served"),
    [
        ("processed_logprobs", "either", True),
        ("processed_logprobs", "processed_logprobs", True),
        ("processed_logprobs", "raw_logprobs", False),
        ("raw_logprobs", "either", True),
        ("raw_logprobs", "processed_logprobs", False),
        ("either", "processed_logprobs", False),
    ],
)
def test_an_engine_serves_another_temperature(running: Any, wanted: Any, served: bool) -> None:
    options = EngineOptions(max_model_len=100)
    asked = replace(options, logprobs_mode=wanted)
    assert serves(replace(options, logprobs_mode=running), asked) is served
    assert not serves(EngineOptions(logprobs_mode=running), asked), "other options are another engine"
