"""Streams once more: slow, plain Python, written from docs/spec/streams.md by its sections and nothing in pass_ops.

A rollout is a dict: "mask" (list of bool) and its columns by their names; a missing value is None. `Table.columns` says
which columns there are and what they hold. `shape_table` returns for each group one Shaped a rollout, or None where the
result hangs on the last bits of a sum (`bounded`). Transforms and operators are in `oracle_operators`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bounded import ZERO, Bounded, Doubt, above, power, total
from oracle_operators import Rollout, Transform, operator_of, return_to_go, transformed


@dataclass(frozen=True)
class Stream:
    signal: str
    weight: float = 1.0
    transform: tuple[Transform, ...] = ()
    operator: str = "masked_norm"
    pool: str = "group"
    key: str | None = None
    after: tuple[Transform, ...] = ()
    gate: str = "always"
    otherwise: str | None = None


@dataclass(frozen=True)
class Fused:
    operator: str
    pool: str = "group"
    per: str = "element"


@dataclass(frozen=True)
class Options:
    streams: dict[str, Stream]
    right: str = "outcome"
    right_above: float = 0.0
    fused: Fused | None = None
    chunk_by: tuple[str, ...] = ()
    divide: bool = True
    k: float = 0.7
    eta: float = 1e-8
    chunk: bool = True
    ddof: int = 1
    eps: float = 1e-6


@dataclass
class Table:
    groups: list[list[dict]]
    columns: dict[str, str] = field(default_factory=dict)  # name -> number, bool, numbers, ends, key, keys


@dataclass
class Shaped:
    ends: list[int]
    credits: list[Bounded]
    advantages: list[Bounded]
    path: Bounded | None
    trainable: bool


# --- 2. signals, levels and elements ------------------------------------------------------------------------------

VALUE_COLUMNS = (
    "{}",
    "{}_scores",
    "{}_reward",
    "{}_ok",
    "{}_logprobs",
    "{}_process_scores",
    "{}_outcome_reward",
    "{}_format_reward",
    "{}_format_ok",
)
ENDS_COLUMNS = {"{}": "{}_ends", "{}_scores": "{}_ends", "{}_process_scores": "{}_process_ends"}


@dataclass(frozen=True)
class Signal:
    level: str
    values: str
    ends: str | None


def signal_of(name: str, columns: dict[str, str]) -> Signal:
    form = next(form for form in VALUE_COLUMNS if form.format(name) in columns)
    values = form.format(name)
    if columns[values] in ("number", "bool"):
        return Signal("rollout", values, None)
    ends = ENDS_COLUMNS.get(form, "").format(name)
    return Signal("step", values, ends) if ends in columns else Signal("token", values, None)


@dataclass
class Element:
    tokens: range
    place: int  # in the value column
    x: Bounded


def elements(r: dict, signal: Signal) -> list[Element]:
    """The live ones."""
    length = len(r["mask"])
    if signal.level == "rollout":
        return [Element(range(length), 0, Bounded(float(r[signal.values])))]
    ends = r[signal.ends] if signal.ends else list(range(1, length + 1))
    live = []
    for j, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if any(r["mask"][start:end]):
            live.append(Element(range(start, end), j, Bounded(r[signal.values][j])))
    return live


def unmasked(r: dict) -> list[int]:
    return [t for t, counts in enumerate(r["mask"]) if counts]


def read_streams(o: Options) -> dict[str, Stream]:
    """In the order of their names."""
    read = {name for name, stream in o.streams.items() if stream.weight != 0} | set(o.chunk_by)
    return {name: o.streams[name] for name in sorted(with_heirs(read, o))}


def with_heirs(names: set[str], o: Options) -> set[str]:
    """These streams, those they hand their weight to, and so on."""
    heirs = {heir for name in names if (heir := o.streams[name].otherwise)}
    return names if heirs <= names else with_heirs(names | heirs, o)


def columns_needed(o: Options, columns: dict[str, str]) -> set[str]:
    needed: set[str] = set()
    for stream in read_streams(o).values():
        signal = signal_of(stream.signal, columns)
        needed |= {column for column in (signal.values, signal.ends, stream.key) if column}
        if needs_right(stream):
            needed.add(signal_of(o.right, columns).values)
        if stream.gate == "format":
            needed.add("format_ok")
    return needed


def needs_right(stream: Stream) -> bool:
    if {stream.gate, stream.pool} & {"right", "wrong", "single_outcome", "mixed"}:
        return True
    return any(options.get("start") == "outcome" for _, options in (*stream.transform, *stream.after))


# --- the whole ----------------------------------------------------------------------------------------------------


@dataclass
class Values:
    """A stream in one rollout: its live elements and what they are at the present stage."""

    elements: list[Element]
    xs: list[Bounded]


@dataclass
class Group:
    """The used rollouts of one group, and each read stream in them."""

    left: list[dict]
    o: Options
    columns: dict[str, str]
    streams: dict[str, Stream]
    x: dict[str, list[Values]]  # before the operator, one a rollout
    y: dict[str, list[Values]] = field(default_factory=dict)  # after all but the gate
    outcomes: list[float] | None = None
    operators: dict = field(default_factory=dict)  # (stream, state) -> x -> N(x; S)
    traces: dict = field(default_factory=dict)  # stream -> u

    def level(self, name: str) -> str:
        return signal_of(self.streams[name].signal, self.columns).level

    def right(self, i: int) -> bool:
        assert self.outcomes is not None
        return self.outcomes[i] > self.o.right_above


def shape_table(table: Table, o: Options) -> list[list[Shaped] | None]:
    """One list a group, None where it cannot be told."""
    needed = columns_needed(o, table.columns)
    used = [[r for r in group if all(r[c] is not None for c in needed)] for group in table.groups]
    groups = [attempt(read_group, left, o, table.columns) for left in used]
    streams = read_streams(o)
    whole = {name: dataset_operator(name, groups, o) for name, s in streams.items() if s.pool == "dataset"}
    fused = [g and attempt(fuse_group, g, whole) for g in groups]
    if o.fused and o.fused.pool == "dataset":
        known = all(g is not None for g in fused)
        pool = [row for g in fused for row in fused_pool(*g)] if known else None
        n_A = attempt(operator_of, o.fused.operator, pool, o.ddof, o.eps) if pool is not None else None
        fused = [g and n_A and attempt(replace_A, g, n_A) for g in fused]
    elif o.fused:
        fused = [g and attempt(fuse_within_group, g, o) for g in fused]
    shaped: list[list[Shaped] | None] = []
    for group, left, done in zip(table.groups, used, fused, strict=True):
        made = done and attempt(finish_group, *done)
        shaped.append(None if made is None else in_place(group, left, made))
    return shaped


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Doubt:
        return None


def read_group(left: list[dict], o: Options, columns: dict[str, str]) -> Group:
    streams = read_streams(o)
    group = Group(left, o, columns, streams, {})
    if any(needs_right(s) for s in streams.values()):
        right = signal_of(o.right, columns)
        assert right.level == "rollout"
        group.outcomes = [float(r[right.values]) for r in left]
    for name, stream in streams.items():
        group.x[name] = []
        for r in left:
            live = elements(r, signal_of(stream.signal, columns))
            xs = transformed([e.x for e in live], stream.transform, rollout_of(group, name, r))
            group.x[name].append(Values(live, xs))
    return group


def rollout_of(group: Group, name: str, r: dict) -> Rollout:
    return Rollout(group.level(name), len(unmasked(r)), group.outcomes)


def dataset_operator(name: str, groups: list[Group | None], o: Options):
    if any(group is None for group in groups):
        return None
    pool = [values.xs for group in groups for values in group.x[name]]
    return attempt(operator_of, o.streams[name].operator, pool, o.ddof, o.eps)


def fuse_group(group: Group, whole: dict) -> tuple[Group, list[dict[int, Bounded]]]:
    """A(i, t) of every unmasked token; -1 stands for the rollout itself where only rollout-level streams enter."""
    for name, stream in group.streams.items():
        group.y[name] = []
        for i, values in enumerate(group.x[name]):
            if stream.pool == "dataset" and whole[name] is None:
                raise Doubt("the data set's pool")
            ys = [operator_at(group, name, i, e, whole)(x) for e, x in zip(values.elements, values.xs, strict=True)]
            ys = transformed(ys, stream.after, rollout_of(group, name, group.left[i]))
            group.y[name].append(Values(values.elements, ys))
    return group, [fused_rollout(group, i) for i in range(len(group.left))]


def operator_at(group: Group, name: str, i: int, element: Element, whole: dict):
    """N(.; S) with the pool S that this element is measured against."""
    stream = group.streams[name]
    if stream.pool == "dataset":
        return whole[name]
    label = key_at(group.left[i], stream, element) if stream.pool == "state" else None
    if (name, label) not in group.operators:
        group.operators[name, label] = operator_of(
            stream.operator, pool_of(group, name, label), group.o.ddof, group.o.eps
        )
    return group.operators[name, label]


def key_at(r: dict, stream: Stream, element: Element) -> object:
    value = r[stream.key]
    return value[element.place] if isinstance(value, list) else value


def pool_of(group: Group, name: str, label: object) -> list[list[Bounded]]:
    """S, a list for each rollout."""
    stream = group.streams[name]
    pool = []
    for i, r in enumerate(group.left):
        values = group.x[name][i]
        if stream.pool == "group":
            pool.append(values.xs)
        elif stream.pool in ("right", "wrong"):
            pool.append(values.xs if group.right(i) == (stream.pool == "right") else [])
        elif stream.pool == "state":
            both = zip(values.elements, values.xs, strict=True)
            pool.append([x for e, x in both if key_at(r, stream, e) == label])
        else:
            assert stream.pool == "joint"
            joint = [other for other, s in group.streams.items() if s.pool == "joint"]
            pool.append([x for other in joint for x in group.x[other][i].xs])
    return pool


# --- 5. gates -----------------------------------------------------------------------------------------------------


def is_open(group: Group, gate: str, i: int) -> bool:
    if gate == "always":
        return True
    if gate == "format":
        return group.left[i]["format_ok"]
    if gate in ("right", "wrong"):
        return group.right(i) == (gate == "right")
    assert group.outcomes is not None
    single = max(group.outcomes) == min(group.outcomes)
    return single == (gate == "single_outcome")


def weights_at(group: Group, i: int) -> dict[str, Bounded]:
    """W_n(i)"""
    arrive: dict[str, list[Bounded]] = {name: [] for name in group.streams}
    for name, stream in group.streams.items():
        to: str | None = name
        while to is not None and not is_open(group, group.streams[to].gate, i):
            to = group.streams[to].otherwise
        if to is not None:
            arrive[to].append(Bounded(stream.weight))
    return {name: total(weights) for name, weights in arrive.items()}


# --- 6. fusion ----------------------------------------------------------------------------------------------------


def fused_rollout(group: Group, i: int) -> dict[int, Bounded]:
    W = weights_at(group, i)
    r = group.left[i]
    at: dict[str, dict[int, Bounded]] = {}  # stream -> token -> y
    for name in group.streams:
        values = group.y[name][i]
        at[name] = {t: y for e, y in zip(values.elements, values.xs, strict=True) for t in e.tokens}
    A = {t: total(W[name] * at[name][t] for name in group.streams) for t in unmasked(r)}
    if all(group.level(name) == "rollout" for name in entering(group)):
        A[-1] = total(W[name] * group.y[name][i].xs[0] for name in entering(group))
    return A


def entering(group: Group) -> list[str]:
    """The streams of non-zero weight and those they hand it to."""
    return sorted(with_heirs({name for name, s in group.streams.items() if s.weight != 0}, group.o))


def fused_pool(group: Group, A: list[dict[int, Bounded]]) -> list[list[Bounded]]:
    """S_A of one group, a list for each rollout."""
    assert group.o.fused is not None
    levels = {group.level(name) for name in entering(group)}
    if group.o.fused.per == "token" or "token" in levels:
        return [[A_i[t] for t in unmasked(r)] for r, A_i in zip(group.left, A, strict=True)]
    if "step" not in levels:
        return [[A_i[-1]] for A_i in A]
    return [[A_i[piece[0]] for piece in pieces(group, r)] for r, A_i in zip(group.left, A, strict=True)]


def pieces(group: Group, r: dict) -> list[list[int]]:
    """The unmasked tokens of each run that no step end divides, where there are any."""
    signals = [signal_of(group.streams[name].signal, group.columns) for name in entering(group)]
    cuts = sorted({end for s in signals if s.level == "step" for end in r[s.ends]} | {len(r["mask"])})
    runs = [[t for t in range(a, b) if r["mask"][t]] for a, b in zip([0, *cuts], cuts, strict=False)]
    return [run for run in runs if run]


def fuse_within_group(fused: tuple, o: Options) -> tuple:
    return replace_A(fused, operator_of(o.fused.operator, fused_pool(*fused), o.ddof, o.eps))


def replace_A(fused: tuple, n_A) -> tuple:
    group, A = fused
    return group, [{t: n_A(a) for t, a in A_i.items()} for A_i in A]


# --- 7. chunks ----------------------------------------------------------------------------------------------------


def boundaries(group: Group, i: int) -> set[int]:
    """The tokens that begin a chunk, without the first of all."""
    tokens = unmasked(group.left[i])
    if not group.o.chunk:
        return set(tokens[1:])
    cuts: set[int] = set()
    for name in group.o.chunk_by or group.streams:
        level = group.level(name)
        if level == "step":
            live = group.y[name][i].elements
            cuts |= {min(t for t in e.tokens if group.left[i]["mask"][t]) for e in live[1:]}
        elif level == "token":
            cuts |= detected(tokens, trace(group, name), group.o.eta)
    return cuts


def detected(tokens: list[int], u: dict[int, Bounded], eta: float) -> set[int]:
    cuts = set()
    v = u[tokens[0]]
    for t in tokens[1:]:
        if above(abs(u[t] - v), Bounded(eta)):
            cuts.add(t)
            v = u[t]
    return cuts


def trace(group: Group, name: str) -> dict[int, Bounded]:
    """u_t of the group, for each t that any rollout has unmasked."""
    if name not in group.traces:
        there: dict[int, list[Bounded]] = {}
        for values in group.y[name]:
            for e, y in zip(values.elements, values.xs, strict=True):
                there.setdefault(e.tokens[0], []).append(y)
        G = Bounded(float(len(group.left)))
        group.traces[name] = {t: total(ys) / G for t, ys in there.items()}
    return group.traces[name]


# --- 8. credit and length -----------------------------------------------------------------------------------------


def finish_group(group: Group, A: list[dict[int, Bounded]]) -> list[Shaped | None]:
    return [finish_rollout(group, i, A[i]) if any(r["mask"]) else None for i, r in enumerate(group.left)]


def finish_rollout(group: Group, i: int, A: dict[int, Bounded]) -> Shaped:
    mask = group.left[i]["mask"]
    cuts = sorted(boundaries(group, i))
    ends = [*cuts, len(mask)]
    credits = []
    for start, end in zip([0, *cuts], ends, strict=True):
        credits.append(A[max(t for t in range(start, end) if mask[t])])
    if not group.o.divide:
        return Shaped(ends, credits, credits, None, True)
    K = len(credits)
    G = return_to_go(credits, None)  # type: ignore[arg-type]
    advantages = [G[j] / power(K - j, group.o.k) for j in range(K)]
    return Shaped(ends, credits, advantages, G[0] / power(K, group.o.k), True)


def in_place(group: list[dict], left: list[dict], made: list[Shaped | None]) -> list[Shaped]:
    """One a rollout; those that are not trainable get one chunk of 0."""
    of_used = dict(zip(map(id, left), made, strict=True))
    shaped = []
    for r in group:
        length = len(r["mask"])
        nothing = Shaped([length] if length else [], [ZERO] * bool(length), [ZERO] * bool(length), None, False)
        shaped.append(of_used.get(id(r)) or nothing)
    return shaped
