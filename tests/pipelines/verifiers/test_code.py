"""The verifier `code`: each published form of a reference in its public shape, and programs as models write them."""
# ruff: noqa: E501  programs and references, a line each, as the sets have them

from __future__ import annotations

import base64
import json
import pickle
import textwrap
import zlib

import pytest

from pipelines.verifiers.code_tests import verify
from pipelines.verifiers.fences import program_of


def fenced(code: str) -> str:
    return f"Here:\n```python\n{textwrap.dedent(code).strip()}\n```\nDone."


def reward(text: str, reference: object, **options: object) -> float:
    verdict = verify(text, reference if isinstance(reference, str) else json.dumps(reference), **options)
    return float(verdict.correct) if verdict.reward is None else verdict.reward


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef raised(xs: List[int]) -> List[int]:\n    """ Add one.\n    >>> raised([1])\n    [2]\n    """\n',
    "entry_point": "raised",
    "canonical_solution": "    return [x + 1 for x in xs]\n",
    "test": "\n\nMETADATA = {\n    'author': 'jt'\n}\n\n\ndef check(candidate):\n    assert candidate([1]) == [2]\n    assert candidate([]) == []\n\n",
}
FULL = "def raised(xs: List[int]) -> List[int]:\n    return [x + 1 for x in xs]"
#: as HumanEval/32, whose check calls a function of the prompt
HELPED = {
    "prompt": 'def poly(xs: list, x: float):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\ndef find_zero(xs: list):\n    """ zero """\n',
    "entry_point": "find_zero",
    "test": "def check(candidate):\n    import math, copy\n    xs = [-2, 1]\n    assert math.fabs(poly(xs, candidate(copy.deepcopy(xs)))) < 1e-4\n",
}
EVALPLUS = {
    "entry_point": "doubled",
    "prompt": "def doubled(x):\n    '''d'''\n",
    "test": textwrap.dedent(
        """
        import numpy as np
        def is_floats(x):
            return isinstance(x, float)
        def assertion(out, exp, atol):
            exact = out == exp
            if atol == 0 and is_floats(exp):
                atol = 1e-6
            if not exact and atol != 0:
                assert type(out) == type(exp)
                np.testing.assert_allclose(out, exp, rtol=1e-7, atol=atol)
            else:
                assert exact
        def check(candidate):
            inputs = [[1.0], [0.1]]
            results = [2.0, 0.2]
            for inp, exp in zip(inputs, results):
                assertion(candidate(*inp), exp, 0)
        """
    ),
}


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("    return [x + 1 for x in xs]\n", HUMANEVAL, 1.0),
        ("    return xs\n", HUMANEVAL, 0.0),
        (fenced(FULL), HUMANEVAL, 1.0),
        (fenced("from __future__ import annotations\n" + FULL), HUMANEVAL, 1.0),
        ("```python\n    return [x + 1 for x in xs]\n```", HUMANEVAL, 1.0),
        (fenced(FULL), json.dumps(json.dumps(HUMANEVAL)), 1.0),
        (fenced("def other(xs):\n    return xs"), HUMANEVAL, 0.0),
        ("    return 2.0", HELPED, 1.0),
        (fenced("def poly(xs, x):\n    return 0\ndef find_zero(xs):\n    return 1"), HELPED, 0.0),
        (fenced("def doubled(x):\n    return x * 2"), EVALPLUS, 1.0),
        (fenced("def doubled(x):\n    return str(x)"), EVALPLUS, 0.0),
        (fenced(FULL), {key: HUMANEVAL[key] for key in ("test", "entry_point")}, 1.0),
    ],
)
def test_humaneval(text: str, reference: object, expected: float) -> None:
    assert reward(text, reference) == expected


def test_check_without_a_name_is_given_the_function_that_the_program_is_about() -> None:
    check = "def check(candidate):\n    assert candidate(1) == 2"
    helped = "def step(x):\n    return x + 1\ndef solve(x):\n    return step(x)\ndef shown():\n    print(solve(1))"
    assert reward(fenced("def inc(x):\n    return x + 1"), check) == 1.0
    assert reward(fenced("def inc(x):\n    return x - 1"), check) == 0.0
    assert reward(fenced("def solve(x):\n    return step(x)\ndef step(x):\n    return x + 1"), check) == 1.0
    assert reward(fenced(helped), check, entry_point="solve") == 1.0
    assert reward("x = 1", check) == 0.0


NODE = """
class Node:
    def __init__(self, data):
        self.data, self.left, self.right = data, None, None
def max_height(node):
    return 0 if node is None else 1 + max(max_height(node.left), max_height(node.right))
"""


@pytest.mark.parametrize(
    ("code", "reference", "expected"),
    [
        (
            "def shared(a, b):\n    return tuple(sorted(set(a) & set(b)))",
            {"test_list": ["assert shared((3, 4, 5), (5, 4)) == (4, 5)", "assert set(shared((1,), (1,))) == set((1,))"]},
            1.0,
        ),
        ("def shared(a, b):\n    return ()", {"test_list": ["assert shared((3, 4), (4,)) == (4,)"]}, 0.0),
        ("def f(x):\n    return x", {"test_list": ["assert f(1) == 1"], "challenge_test_list": ["assert f(2) == 3"]}, 0.0),
        ("def sum(a, b):\n    return 6", ["assert sum(10, 15) == 6"], 1.0),
        (NODE, {"test_list": ["assert (max_height(root)) == 2"], "test_setup_code": "root = Node(1)\r\nroot.left = Node(2)"}, 1.0),
        (
            "class Pair(object):\n    def __init__(self, a, b):\n        self.a = a\n        self.b = b\n"
            "def total(pairs, n):\n    return sum(p.a for p in pairs) + n",
            ["assert total([Pair(5, 24), Pair(15, 25)], 2) == 22"],
            1.0,
        ),
        ("def f(x):\n    return x / 3", {"test_imports": ["import math"], "test_list": ["assert math.isclose(f(1), 1 / 3)"]}, 1.0),
    ],
)  # fmt: skip
def test_mbpp(code: str, reference: object, expected: float) -> None:
    assert reward(fenced(code), reference) == expected


APPS = {"inputs": ["3\n1 2 3\n", "1\n5\n"], "outputs": ["6\n", "5\n"]}
SUM = "n = int(input())\nprint(sum(map(int, input().split())))"
PACKED = base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "[1]\n3", "output": "4", "testtype": "functional"}])))
).decode()
LCB = {
    "public_test_cases": json.dumps([{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]),
    "private_test_cases": PACKED,
    "metadata": json.dumps({"func_name": "f"}),
}


@pytest.mark.parametrize(
    ("code", "reference", "expected"),
    [
        (SUM, APPS, 1.0),
        (SUM, {"problem_id": 0, "input_output": json.dumps(APPS)}, 1.0),
        (SUM, {"inputs": [["3", "1 2 3"]], "outputs": [["6"]]}, 1.0),
        (f"if __name__ == '__main__':\n    {SUM.replace(chr(10), '; ')}", APPS, 1.0),
        ("def f(a):\n    return tuple(a)", {"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [[[1, 2]]]}, 1.0),
        ("class Solution:\n    def f(self, a):\n        return a[0]", {"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [1]}, 1.0),
        ("def f(d):\n    return {k + 1: v for k, v in d.items()}", {"fn_name": "f", "inputs": [[{"1": 2}]], "outputs": [{"2": 2}]}, 1.0),
        ("def f():\n    return 0.1 + 0.2", {"fn_name": "f", "inputs": [[]], "outputs": [0.3]}, 1.0),
        ("def f(a, b):\n    return Counter(a)[b]", {"fn_name": "f", "inputs": [["aab", "a"]], "outputs": [2]}, 1.0),
        ("n = int(input())\nprint(n * n)", [{"input": "3\n", "output": "9\n", "testtype": "stdin"}], 1.0),
        ("n = int(input())\nprint(n * n)", [{"input": "3\n", "output": "8\n", "testtype": "stdin"}], 0.0),
        ("class Solution:\n    def f(self, nums: List[int], k: int) -> int:\n        return reduce(add, nums) + k", LCB, 1.0),
        ("class Solution:\n    def f(self, nums, k):\n        return 6", LCB, 0.0),
        ("def f(nums, k):\n    return sum(nums) + k", LCB, 1.0),
    ],
)  # fmt: skip
def test_apps_and_livecodebench(code: str, reference: object, expected: float) -> None:
    assert reward(fenced(code), reference) == expected


def test_a_packed_set_that_holds_an_object_is_refused_and_not_made() -> None:
    packed = base64.b64encode(zlib.compress(pickle.dumps(print))).decode()
    with pytest.raises(ValueError, match=r"it holds builtins\.print"):
        reward(fenced("x = 1"), LCB | {"private_test_cases": packed})


@pytest.mark.parametrize(
    ("printed", "wanted", "form", "same"),
    [
        ("3", "3\n", "apps", True),
        (" 3 \n\n", "3", "apps", True),
        ("1\n\n2", "1\n2", "apps", True),
        ("1\n\n2", "1\n2", "livecodebench", False),
        ("1 2", "1\n2", "apps", False),
        ("1\n2", "1 2", "livecodebench", False),
        ("0.3333333333333333", "0.333333333333\n", "apps", True),
        ("0.34", "0.33", "apps", False),
        ("0.3333333333333333", "0.333333333333\n", "livecodebench", False),
        ("9.0", "9", "livecodebench", True),
        ("1000000008", "1000000007", "apps", False),
        ("yes", "YES", "apps", False),
        ("7" * 3_000_000, "7" * 3_000_000, "apps", True),
    ],
)
def test_outputs_are_compared_as_the_sets_own_harnesses_do(printed: str, wanted: str, form: str, same: bool) -> None:
    code = f"print({printed!r})" if len(printed) < 100 else f"print({printed[0]!r} * {len(printed)})"
    case = {"input": "", "output": wanted, "testtype": "stdin"}
    reference = {"inputs": [""], "outputs": [wanted]} if form == "apps" else [case]
    assert reward(fenced(code), reference, form=form) == float(same)


def test_integers_of_thousands_of_digits() -> None:
    power = "1" + "0" * 5000
    assert reward(fenced("print(10**5000)"), {"inputs": [""], "outputs": [power]}) == 1.0
    assert reward(fenced("def f():\n    return 10**5000"), ["assert f() == 10**5000"]) == 1.0
    assert (
        reward(fenced("def f():\n    return 10**5000"), f'{{"fn_name": "f", "inputs": [[]], "outputs": [{power}]}}')
        == 1.0
    )


UNITTEST = "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n"


@pytest.mark.parametrize(
    "reference",
    [
        "def test_f():\n    assert f(1) == 2",
        "from solution import f\n\ndef test_f():\n    assert f(1) == 2",
        "import solution\n\nclass TestF:\n    def setup_method(self):\n        self.x = 1\n    def test_f(self):\n        assert solution.f(self.x) == 2",
        UNITTEST,
        UNITTEST + "if __name__ == '__main__':\n    unittest.main()",
        "assert f(1) == 2",
        ["from math import floor", "assert floor(f(1)) == 2"],
        "try:\n    f('a')\n    assert False, 'no error'\nexcept TypeError:\n    pass\nassert f(1) == 2",
        "import io\nfrom contextlib import redirect_stdout\nwith redirect_stdout(io.StringIO()) as out:\n    f(0, shown=True)\nassert out.getvalue() == '1\\n' and f(1) == 2",
    ],
)
def test_python_tests_are_called(reference: object) -> None:
    right = "def f(x, shown=False):\n    if shown:\n        print(x + 1)\n    return x + 1"
    assert reward(fenced(right), reference) == 1.0
    assert reward(fenced("def f(x, shown=False):\n    return x"), reference) == 0.0


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(s):\n    from collections import Counter\n    return Counter(s)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("def f(l):\n    l.sort()", "xs = [2, 1]\nf(xs)\nassert xs == [1, 2]"),
        ("def f(l):\n    return l", "xs = [1]\nassert f(xs) is xs"),
        ("def f(xs, key):\n    return sorted(xs, key=key)", "assert f([1, 2], key=lambda x: -x) == [2, 1]"),
        ("def f(xs, key):\n    return sorted(xs, key=key)", "assert f([-2, 1], key=abs) == [1, -2]"),
        ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
        ("def f():\n    return float('nan')", "import math\nassert math.isnan(f())"),
        ("import numpy as np\ndef f(x):\n    return np.arange(3) * x", "import numpy as np\nassert np.allclose(f(2.0), [0, 2, 4])"),
        ("class E(Exception): pass\ndef f():\n    raise E('bad')", "try:\n    f()\n    assert False\nexcept E as e:\n    assert str(e) == 'bad'"),
        ("class V:\n    def __init__(s, x): s.x = x\n    def __eq__(s, o): return s.x == o.x\n    def __add__(s, o): return V(s.x + o.x)", "assert V(1) + V(2) == V(3)"),
        ("def depth(t):\n    return 0 if not t else 1 + depth(t.left)", "class T:\n    def __init__(self, left=None): self.left = left\nassert depth(T(T())) == 2"),
        ("from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f(): return A(3).x", "assert f() == 3"),
        ("def f(x): return x\nif __name__ == '__main__':\n    print(f(int(input())))", "assert f(1) == 1"),
        ("def f(x: Optional[List[int]]): return x", "assert f(None) is None"),
        ("def f(x): return x", "xs: List[int] = [1]\nassert f(xs) == [1] and __doc__ is None"),
        ("def cast(x): return x + 1", "assert cast(1) == 2"),
    ],
)  # fmt: skip
def test_what_python_tests_may_do_with_a_program(code: str, test: str) -> None:
    assert reward(fenced(code), [test]) == 1.0


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("# assert f(1) == 2", "nothing in it can fail"),
        (["# assert f(1) == 2"], "empty list"),
        ("def check(candidate):\n    pass", "nothing in it can fail"),
        ({"test": "def check(candidate):\n    for x in []:\n        assert candidate(x)", "entry_point": "f"}, "without a use of the program"),
        (["assert True"], "without a use of the program"),
        ([], "is no test"),
        ({"test_list": []}, "empty list"),
        ({"inputs": [], "outputs": []}, "empty list"),
        ({"inputs": ["1"], "outputs": []}, "is no test"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "empty list"),
        ([{"input": "1"}], "has input and output"),
        ("42", "is no test"),
        ("f(1) equals 2", "is no test"),
        ("def test_f(fixture):\n    assert f(1) == 2", "takes arguments"),
        ("from unittest.mock import patch\nassert f(1) == 2", "change the program's process"),
        ("import sys, io\nsys.stdin = io.StringIO('1')\nassert f(1) == 2", "change the program's process"),
        ("import asyncio\nassert asyncio.run(f(1)) == 2", "await"),
        ("import no_such_module\nassert f(1) == 2", "no_such_module"),
    ],
)  # fmt: skip
def test_a_reference_that_tests_nothing_or_cannot_be_run_is_refused(reference: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        reward(fenced("def f(x):\n    return x + 1"), reference)


def test_a_form_that_is_asked_for_must_be_there() -> None:
    with pytest.raises(ValueError, match="of the form mbpp; it looks like apps"):
        reward(fenced(SUM), APPS, form="mbpp")
    with pytest.raises(ValueError, match="choose one of humaneval, mbpp"):
        reward(fenced(SUM), APPS, form="MBPP")


def test_a_module_that_the_program_lacks_is_its_own_fault() -> None:
    assert reward(fenced("import no_such_module\ndef f(x):\n    return 2"), "assert f(1) == 2") == 0.0
    assert reward(fenced("def f(x):\n    import no_such_module"), "assert f(1) == 2") == 0.0


def test_tests_for_which_no_time_is_left_are_not_passed() -> None:
    slow = fenced("import time\ndef f(x):\n    time.sleep(0.5)\n    return x")
    reference = [f"assert f({x}) == {x}" for x in range(60)]
    assert 0.0 < reward(slow, reference, partial=True, total_timeout_s=1.5) < 0.5


F = "def f():\n    return 1"


@pytest.mark.parametrize(
    "text",
    [
        f"{F}\n```",
        f"{F}\n```\nThis returns 1.\nOutput:\n```\n1\n```",
        "1. Code:\n   ```python\n   def f():\n       return 1\n   ```\n",
        '```python\ndef f():\n    """Doc:\n    ```\n    f()\n    ```\n    """\n    return 1\n```',
        '```python\ndef f():\n  """\n```\nx\n```\n  """\n  return 1\n```\nthat is it',
        f"```python\n{F}\n```\nOutput:\n```\n1\n```",
        f"```python\n{F}\n```\nRun:\n```bash\npython f.py\n```",
        f"```\n{F}\n```\nOutput:\n```\n1\n```",
        f"```python\n{F}\n```\nUsage:\n```python\nprint(f())\n```",
        f"```python\ndef f():\n    return 0\n```\nBetter:\n```python\n{F}\n```",
        f"Sure:\n```python\n{F}",
        f"```python\n{F}\n```".replace("\n", "\r\n"),
        f"~~~python\n{F}\n~~~",
        f"````python\n{F}\n````",
        f"```Python\n{F}\n```",
        f"```py\n{F}\n```",
        f"```python3 title='f.py'\n{F}\n```",
        f"``` python\n{F}\n``` ",
        f"\ufeff{F}",
        F,
    ],
)
def test_the_program_in_a_text(text: str) -> None:
    assert reward(text, ["assert f() == 1"]) == 1.0


@pytest.mark.parametrize("text", ["", "```python\n```", "```cpp\nint main() {}\n```", "<think>\n" + fenced(F)])
def test_texts_without_a_program(text: str) -> None:
    assert verify(text, "assert f() == 1").unparseable


def test_a_collapsed_policys_text_is_read_in_no_time() -> None:
    """Linear: a megabyte of fences of each kind, each of which a quadratic reading would take minutes for."""
    for line in ("```\n", "```python\n", "    ```python\n", "~~~\n```python\nx = 1\n", "```x`\n"):
        program_of(line * ((1 << 20) // len(line)))


def test_a_preamble_may_come_before_a_future_import() -> None:
    code = "from __future__ import annotations\ndef f(x: Matrix): return EPS"
    assert reward(fenced(code), ["assert f(1) == 5"], preamble="EPS = 5") == 1.0
