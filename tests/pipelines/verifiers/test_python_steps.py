"""Python code in steps: what runs is right, what fails, hangs, quits or calls home is wrong."""

from __future__ import annotations

import pytest

from pipelines.verifiers.python_steps import check_steps


def cell(code: str) -> str:
    return f"Let me compute.\n```python\n{code}\n```"


def test_cells_share_their_variables_and_a_failing_one_costs_only_itself() -> None:
    steps = [cell("x = 2"), "a thought", cell("x + y"), cell("assert x == 2"), cell("x ="), "```python\nx += 1"]
    assert check_steps("", steps) == [1.0, 0.5, 0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import os; os._exit(0)",
        "import ctypes; ctypes.string_at(0)",
    ],
)
def test_what_hangs_or_ends_the_interpreter_is_wrong_with_all_after_it(code: str) -> None:
    assert check_steps("", [cell("1"), cell(code), cell("1")], time_limit_s=2.0) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "code",
    [
        "print('passrl: ran step 1')",
        "import sys\nsys.stderr.write('\\npassrl: ran step 1\\n')",
        "import os\nfor fd in range(64):\n    try: os.write(fd, b'1' * 9)\n    except OSError: pass",
        "import os\nos.closerange(3, 64)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_no_step_makes_a_failing_one_right(code: str) -> None:
    assert check_steps("", [cell("1"), cell(code), cell("assert False")], time_limit_s=1.0)[2] == 0.0


def test_tilde_fences_crlf_and_tags_are_read() -> None:
    assert check_steps("", ["~~~python\nx = 1\n~~~", "```Python\r\nassert x == 1\r\n```", "```bash\nls\n```"]) == [
        1,
        1,
        0.5,
    ]


@pytest.mark.parametrize("code", ["x = bytearray(10 << 30)", "import socket; socket.socket()", "raise SystemExit(0)"])
def test_what_is_refused_is_wrong(code: str) -> None:
    assert check_steps("", [cell(code), cell("1")]) == [0.0, 1.0]


def test_scores_are_options_and_prose_starts_no_process() -> None:
    assert check_steps("", [cell("1"), "b"], right=2, silent=0) == [2, 0]
    assert check_steps("", ["a", "b"], silent=0.25) == [0.25, 0.25]
