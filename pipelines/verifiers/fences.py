r"""The program in a completion: which of its Markdown code blocks it is, or that it is the whole text.

Blocks are read as CommonMark does, with what models make of it:

- a fence is three or more backticks or tildes, at any indentation, which is then taken off the block's lines;
- a block ends at a fence of the same character, at least as long, with nothing after it, and indented by no more than
  three beyond the opening one; where the code up to there is no Python, as with a fence in a docstring, it goes on to
  the first such fence at which it is, but not beyond the opening of another block; an unclosed block goes on to the
  end of the text;
- a text that begins with code and closes a block it never opened (the prompt did) is that code.

Of several blocks tagged as Python, or where there is none, of those without a tag, the last one counts that defines a
name the tests call; else the last one. Blocks of other languages and outputs never count. Stdlib only.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*(.*)")
_PYTHON = re.compile(r"\{?\s*\.?(?:python[\d.]*|py[\d.]*|ipython[\d.]*|sage)(?![\w-])", re.IGNORECASE)
_CLOSINGS_TRIED = 16  # how many fences a block may hold
# A collapsed policy writes a hundred thousand blocks: beyond so many, a block ends at its first fence, and only the
# last ones can be the program.
_BLOCKS_READ = 256


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    code: str


def program_of(text: str, names: Collection[str] = ()) -> str:
    r"""The program in the text, empty where there is none. names: functions or classes that the tests call.

    >>> program_of("First:\n```python\nx = 1\n```\nThat prints\n```\n1\n```")
    'x = 1\n'
    >>> program_of("def f():\n    return 1\n```\nIt returns 1.")
    'def f():\n    return 1\n'
    """
    lines = _lines(text)
    fences = [number for number, line in enumerate(lines) if _FENCE.fullmatch(line)]
    if not fences:
        return "\n".join(lines)
    head = "\n".join(lines[: fences[0]]) + "\n"
    if _is_bare(lines[fences[0]]) and _is_program(head):
        return head
    blocks = list(_blocks(lines))[-_BLOCKS_READ:]
    tagged = [block.code for block in blocks if _PYTHON.match(block.tag)]
    plain = [block.code for block in blocks if not block.tag]
    return _chosen(tagged or [code for code in plain if _is_program(code)] or plain, names)


def python_blocks(text: str) -> list[str]:
    """The code of every block that is tagged as Python; one that is not closed reaches to the end."""
    return [block.code for block in _blocks(_lines(text)) if _PYTHON.match(block.tag)]


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff").split("\n")


def _chosen(codes: list[str], names: Collection[str]) -> str:
    defining = [code for code in codes if names and not defined_names(code).isdisjoint(names)]
    return (defining or codes or [""])[-1]


def _blocks(lines: list[str]) -> Iterator[_Block]:
    start, parses = 0, iter(range(_BLOCKS_READ))
    while start < len(lines):
        opening = _FENCE.fullmatch(lines[start])
        start += 1
        if opening is None or (opening[2].startswith("`") and "`" in opening[3]):
            continue
        end = _end(lines, start, opening, parses)
        yield _Block(opening[3].strip(), _code(lines[start:end], len(opening[1])))
        start = end + 1


def _end(lines: list[str], start: int, opening: re.Match[str], parses: Iterator[int]) -> int:
    """The line of the fence that ends the block."""
    first = None
    python = not opening[3] or _PYTHON.match(opening[3])
    tried = 0
    for number in range(start, len(lines)):
        fence = _FENCE.fullmatch(lines[number])
        if fence is None or not fence[2].startswith(opening[2]) or len(fence[1]) > len(opening[1]) + 3:
            continue
        if fence[3]:
            if first is not None:  # the next block
                break
            continue
        if not python or next(parses, None) is None or parsed(_code(lines[start:number], len(opening[1]))) is not None:
            return number
        first, tried = number if first is None else first, tried + 1
        if tried == _CLOSINGS_TRIED:
            break
    return len(lines) if first is None else first


def _code(lines: list[str], indentation: int) -> str:
    kept = (line[min(indentation, len(line) - len(line.lstrip(" \t"))) :] for line in lines)
    return "".join(f"{line}\n" for line in kept)


def _is_bare(line: str) -> bool:
    fence = _FENCE.fullmatch(line)
    return fence is not None and not fence[3]


def _is_program(code: str) -> bool:
    """Whether it is Python that does something: not a number, a name or a text, which prose and outputs may be too."""
    tree = parsed(code)
    return tree is not None and any(
        not (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call)) for node in tree.body
    )


def defined_names(code: str) -> set[str]:
    """The names that a program defines, the methods of its class Solution among them."""
    tree = parsed(code)
    found: set[str] = set()
    for node in tree.body if tree else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef) and node.name == "Solution":
            found |= {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def parsed(code: str) -> ast.Module | None:
    """The syntax tree, None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
