"""What the model wrote in each chunk, decoded from the stored token ids by the policy's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pass_ops.errors import PassError
from pass_ops.shards import CompleteDataset
from pipelines.inspect.tokenizer import NoTokenizerError, find_tokenizer
from pipelines.signals.steps import Decode, token_text_ends, tokenizer_decode

#: characters of a text that is not shown whole, at its head and at its tail
SHOWN = (120, 60)


@dataclass(frozen=True)
class TextDecoder:
    """Token ids -> text; None with the reason where the tokens of a dataset cannot be read here."""

    decode: Decode | None
    why: str = ""

    def texts(self, token_ids: Sequence[int], ends: Sequence[int]) -> list[str] | None:
        """The text of each chunk of a rollout, by the exclusive token ends of its chunks; None without a tokenizer."""
        return None if self.decode is None else texts_of(token_ids, ends, decode=self.decode)


def text_decoder(dataset: CompleteDataset, *, tokenizer: str | None = None) -> TextDecoder:
    """The decoder of a dataset's rollouts.

    tokenizer: a folder with the policy's tokenizer.json (default: one that the dataset names: see `find_tokenizer`).
    Without it there are no texts; the numbers are worth showing all the same.
    """
    try:
        folder = find_tokenizer(dataset, folder=tokenizer)
        return TextDecoder(tokenizer_decode(str(folder)))
    except NoTokenizerError as error:
        return TextDecoder(None, f"no tokenizer was found, give --tokenizer FOLDER ({error})")
    except PassError as error:
        return TextDecoder(None, str(error))
    except ImportError:
        return TextDecoder(None, "the library tokenizers is missing; install the extra models")


def texts_of(token_ids: Sequence[int], ends: Sequence[int], *, decode: Decode) -> list[str]:
    """The decoded text cut at token ends; a character of several tokens is in the chunk of its last one.

    >>> texts_of([0, 1, 2], [1, 3], decode=lambda ids: "".join("abc"[i] for i in ids))
    ['a', 'bc']
    """
    text, text_ends = token_text_ends(token_ids, decode)
    cuts = [0, *(text_ends[end - 1] for end in ends)]
    cuts[-1] = len(text)
    return [text[start:end] for start, end in pairwise(cuts)]


def shortened(text: str) -> str:
    """The head and the tail of a long text, and how much is left out.

    >>> shortened("a" * 300).count("a")
    182
    """
    head, tail = SHOWN
    left_out = len(text) - head - tail
    return text if left_out <= tail else f"{text[:head]} [... {left_out:,} characters ...] {text[-tail:]}"
