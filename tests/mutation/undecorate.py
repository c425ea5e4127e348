"""Decorators written as calls after the function: `f = decorator(f)`. mutmut mutates no decorated function."""

from __future__ import annotations

import libcst as cst


class _Undecorate(cst.CSTTransformer):
    def leave_FunctionDef(self, original_node, updated_node):
        name = updated_node.name.value
        applied = [
            cst.parse_statement(f"{name} = {cst.Module([]).code_for_node(decorator.decorator)}({name})")
            for decorator in reversed(updated_node.decorators)
        ]
        return cst.FlattenSentinel([updated_node.with_changes(decorators=[]), *applied])


def undecorate(source: str) -> str:
    """The same program without a decorated function in it."""
    return cst.parse_module(source).visit(_Undecorate()).code
