"""What tests of several folders use: tiny models, random and seeded, made once a session; a bucket on an S3 server."""

from __future__ import annotations

import gc
import os
import signal
import string
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The first example of a test may compile kernels or load a library, on a busy machine for a minute.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check={*settings().suppress_health_check, HealthCheck.too_slow}
)
settings.load_profile("unhurried")

# Texts fold at the width that COLUMNS says, and in other places where the temporary folder has a longer path. In tests
# they do not, but in those of the width itself.
os.environ["COLUMNS"] = "400"

# A shell's background job ignores interrupts, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Only a power cut tells a synced file from another, and no test pulls the plug; on a disk the syncs of commits took as
# long as all that the tests of stages compute. That they are made, and when, is a test of its own (`test_store`).
os.fsync = os.fstat

#: torch alone has 200,000; what a test itself makes is far less
MANY_OBJECTS = 100_000


def pytest_runtest_setup() -> None:
    """Imported modules are no garbage: keep the collector from looking at them again and again.

    Every update, and every engine that starts or closes, collects. Over the objects of all libraries that took half of
    the time of the trainer's tests. (vLLM freezes them itself while an engine runs, and thaws them when it closes.)
    """
    if len(gc.get_objects()) > MANY_OBJECTS:
        gc.collect()
        gc.freeze()


CHARACTERS = string.digits + string.ascii_lowercase + "+-=?.: \n"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def make_tiny_model(
    folder: Path, *, seed: int, characters: str = CHARACTERS, max_positions: int = 512, tied: bool = False
) -> str:
    """A Llama of 2 layers and head_dim 32 over single characters, with random weights and a chat template.

    Weights are ten times the usual width: the distributions are then far from uniform, so wrong logprobs show.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", *characters]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_positions,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random character model (seed 1)."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="session")
def tiny_model_updated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same architecture and tokenizer as `tiny_model`, other weights (seed 2)."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "updated", seed=2)


@pytest.fixture(scope="session")
def tiny_model_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes further models: tiny_model_factory(seed=3, characters="abc")."""

    def make(**options: object) -> str:
        return make_tiny_model(tmp_path_factory.mktemp("models") / "model", **options)  # type: ignore[arg-type]

    return make


SPECIAL_TOKENS = ("<pad>", "<s>", "<|im_end|>", "<think>", "</think>")


@pytest.fixture(scope="session")
def reciting_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """reciting_model(text) -> folder of a byte-level model that recites the text after any prompt.

    Each byte or special token may stand in the text once; after its last token the text begins again.
    """

    def make(text: str, *, end: str = "<|im_end|>") -> str:
        return make_reciting_model(tmp_path_factory.mktemp("models") / "reciting", text, end=end)

    return make


def refusing_tokenizer() -> Any:
    """Of single characters, which it raises an error for where it has no token of them; its end is <eos>."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    library = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<eos>": 2}))
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=library, eos_token="<eos>")


def byte_tokenizer(*, end: str = "<|im_end|>", appended: str = "", words: Sequence[str] = ()) -> Any:
    """Bytes, `SPECIAL_TOKENS` and whole words; puts <s> before a text and, where asked to, a special token after it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens(list(words))
    known = [(name, vocabulary[name]) for name in ("<s>", appended) if name]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"<s> $A {appended}".strip(), special_tokens=known)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token=end,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = (
        "<s>{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    return fast


def make_reciting_model(
    folder: Path, text: str, *, end: str, appended: str = "", words: Sequence[str] = (), max_positions: int = 512
) -> str:
    """See `reciting_model`; words: tokens that are no bytes.

    The blocks add nothing, so the next token follows from the last one's embedding alone.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(end=end, appended=appended, words=words)
    tokenizer.save_pretrained(folder)
    script = tokenizer(text, add_special_tokens=False).input_ids
    assert len(set(script)) == len(script) <= 64, "each token once"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=max_positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, len(script) - 1] = 1.0  # whatever else: then the text begins
        model.lm_head.weight.zero_()
        for place, token in enumerate(script):
            model.model.embed_tokens.weight[token] = torch.eye(64)[place]
            model.lm_head.weight[script[(place + 1) % len(script)], place] = 10.0
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a real server that speaks S3, on this machine."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b",
                        "DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    # A client that had no answer asks again, and a create that was done is refused then: not before a stall has passed.
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 120)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex}"  # moto keeps its state as long as the process
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
