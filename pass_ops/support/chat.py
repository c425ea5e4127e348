"""Which chats can be prompts: what every chat template knows, and somebody asks."""

from __future__ import annotations

from collections.abc import Sequence

CHAT_ROLES = ("system", "developer", "user", "assistant", "tool")


def chat_problem(roles: Sequence[str]) -> tuple[str, str] | None:
    """Why messages of these roles are no prompt, as a stable name and a sentence; None where they are one.

    >>> chat_problem(["system", "user"]) is None, chat_problem(["system"])
    (True, ('no_user_message', 'no message has the role user'))
    """
    if unknown := [role for role in roles if role not in CHAT_ROLES]:
        said = f"a message has the role {str(unknown[0])[:60]!r}, and the roles are {', '.join(CHAT_ROLES)}"
        return "unknown_role", said
    return None if "user" in roles else ("no_user_message", "no message has the role user")
