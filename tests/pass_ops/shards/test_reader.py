from __future__ import annotations

import pickle

import pytest

from pass_ops.errors import CorruptDatasetError, IncompleteDatasetError, StaleInputError
from pass_ops.shards import (
    DatasetSpec,
    InputRef,
    Rejection,
    commit_part,
    create_dataset,
    finalize,
    folder_digest,
    open_dataset,
    sha256_bytes,
)
from pass_ops.shards.reader import examine_input


def test_what_was_committed_is_read_back(root, make_dataset, rollouts):
    complete = make_dataset(root, rollouts("a"), rollouts("b", "c"))
    assert complete.read_part(1).equals(rollouts("b", "c"))
    assert complete.read_part(1).schema.field("token_ids").type.value_field.nullable is False
    assert complete.read_part(0, ["text", "seed"]).equals(rollouts("a").select(["text", "seed"]))
    assert [record.rows for record in complete.parts] == [2, 4]
    assert pickle.loads(pickle.dumps(complete)).read_part(0).num_rows == 2


def test_rejections_are_read_by_part(near_root, make_dataset, rollouts):
    complete = make_dataset(
        near_root, rollouts("a"), rollouts("b"), rejected=[Rejection(prompt_id="x", reason="too_long")]
    )
    assert complete.read_rejected(0)["prompt_id"].to_pylist() == ["x"]
    assert complete.read_rejected(1) is None


def test_an_incomplete_dataset_is_refused(near_root, generate_spec, rollouts):
    commit_part(create_dataset(near_root, generate_spec()), 0, rollouts("a"))
    with pytest.raises(IncompleteDatasetError, match=r"not finalized.*passrl status"):
        open_dataset(near_root)


def test_files_of_another_fingerprint_do_not_exist_for_a_reader(near_root, make_dataset, rollouts):
    complete = make_dataset(near_root, rollouts("a"))
    complete.store.create("part-000001-00000000-00000000.parquet", b"somebody else's")
    complete.store.create("_manifest-00000000.json", b"{}")
    assert len(open_dataset(near_root).parts) == 1


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b""])
@pytest.mark.parametrize("file", ["_manifest-{}.json", "_parts-{}.jsonl", "_dataset.json"])
def test_a_damaged_small_file_is_refused(near_root, make_dataset, rollouts, file, damage):
    complete = make_dataset(near_root, rollouts("a"))
    name = file.format(complete.spec.fingerprint[:8])
    content = complete.store.read(name)
    complete.store.put(name, damage(content.rstrip()))
    with pytest.raises(CorruptDatasetError, match=name):
        open_dataset(near_root)


def _signal_of(made, url, outcomes, rollouts):
    ds = create_dataset(
        url, DatasetSpec(stage="score", stage_version=1, options={}, parts=1, inputs={"rollouts": made.ref(url)})
    )
    commit_part(ds, 0, outcomes(rollouts("a")))
    finalize(ds)
    return open_dataset(url)


def test_an_input_made_anew_makes_the_dataset_stale(root, make_dataset, rollouts, outcomes, generate_spec):
    made = make_dataset(f"{root}/rollouts", rollouts("a"))
    signal = _signal_of(made, f"{root}/signals/outcome", outcomes, rollouts)
    signal.check_inputs()
    ds = create_dataset(made.url, generate_spec(parts=1, seed=8), overwrite=True)
    ref = signal.spec.inputs["rollouts"]
    advice = "Make this dataset again (--overwrite), or bring back the input it was made from"

    def stale(reason):
        with pytest.raises(StaleInputError) as raised:
            signal.check_inputs()
        assert str(raised.value) == f"{signal.url} is stale: its input rollouts ({root}/rollouts) {reason}. {advice}"
        assert examine_input(signal.url, signal.spec, ref) == (True, reason)

    stale("is not finalized now: it was replaced or taken back")
    commit_part(ds, 0, rollouts("a"))
    finalize(ds)
    now = open_dataset(made.url).content_digest
    stale(f"has content digest {now[:16]}... now, {ref.content_digest[:16]}... when this was made")


def test_an_input_that_is_gone_proves_nothing(tmp_path, make_dataset, rollouts, outcomes):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    signal = _signal_of(made, str(tmp_path / "outcome"), outcomes, rollouts)
    ref = signal.spec.inputs["rollouts"]
    assert examine_input(signal.url, signal.spec, ref) == (True, None)
    (tmp_path / "rollouts").rename(tmp_path / "elsewhere")
    signal.check_inputs()
    assert examine_input(signal.url, signal.spec, ref) == (False, None)


def test_prompts_are_stale_when_their_source_changed(tmp_path):
    import pyarrow as pa

    from pass_ops.shards import PROMPTS

    (tmp_path / "source.jsonl").write_text("{}\n")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "data.arrow").write_text("x")
    sources = {
        "source.jsonl": InputRef("../source.jsonl", sha256_bytes(b"{}\n")),
        "saved": InputRef("../saved", folder_digest(str(tmp_path / "saved"))),
    }
    url = str(tmp_path / "prompts")
    ds = create_dataset(url, DatasetSpec(stage="prompts", stage_version=1, options={}, parts=1, inputs=sources))
    commit_part(ds, 0, pa.Table.from_pylist([{"prompt_id": "a", "prompt": "?", "source": "s"}], schema=PROMPTS))
    finalize(ds)
    open_dataset(url).check_inputs()
    (tmp_path / "saved" / "data.arrow").write_text("y")
    with pytest.raises(StaleInputError, match="its input saved"):
        open_dataset(url).check_inputs()
    (tmp_path / "saved" / "data.arrow").write_text("x")
    (tmp_path / "source.jsonl").write_text("{} \n")
    with pytest.raises(StaleInputError, match=r"its input source\.jsonl"):
        open_dataset(url).check_inputs()
    (tmp_path / "source.jsonl").unlink()
    open_dataset(url).check_inputs()
