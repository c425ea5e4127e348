"""Mistral's own tokenizer, that of Math-Shepherd's process reward model, from the package mistral_common."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def mistral_tokenizer() -> Any:
    """mistral_common's sentencepiece model (v1: Mistral 7B) in the form that Hugging Face checkpoints have it."""
    import mistral_common
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    file = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    pieces = sentencepiece.SentencePieceProcessor(str(file))
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    merges = [
        (-pieces.get_score(index), piece[:at], piece[at:])
        for piece, index in vocabulary.items()
        for at in range(1, len(piece))
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    pairs = [(left, right) for _, left, right in sorted(merges, key=lambda merge: merge[0])]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
