import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from assay.cards import headers
from assay.errors import CheckpointError


def saved(path, **shapes):
    """Write a safetensors file of zeros; a name's dots are written as two underscores."""
    save_file(
        {name.replace("__", "."): np.zeros(shape, np.float16) for name, shape in shapes.items()},
        path,
    )
    return path


def sharded(folder, places):
    """Write an index over two shards that hold one tensor each."""
    saved(folder / "a.safetensors", model__norm__weight=[4])
    saved(folder / "b.safetensors", score__weight=[1, 4])
    (folder / headers.INDEX).write_text(json.dumps({"weight_map": places}))


def test_a_single_file_is_read_by_its_header(tmp_path):
    """Each tensor has its shape, its dtype and its file."""
    file = saved(tmp_path / headers.WEIGHTS, score__weight=[1, 4])
    assert headers.tensors(tmp_path) == {"score.weight": headers.Tensor((1, 4), "F16", file)}


def test_an_index_names_the_files(tmp_path):
    """Shards are put together, each tensor with the shard it lies in."""
    sharded(tmp_path, {"model.norm.weight": "a.safetensors", "score.weight": "b.safetensors"})

    found = headers.tensors(tmp_path)

    assert {name: tensor.file.name for name, tensor in found.items()} == {
        "model.norm.weight": "a.safetensors",
        "score.weight": "b.safetensors",
    }


def test_a_file_beside_the_index_is_not_the_trunks(tmp_path):
    """A separate head's file is read only when asked for."""
    saved(tmp_path / headers.WEIGHTS, model__norm__weight=[4])
    head = saved(tmp_path / "value_head.safetensors", v_head__summary__weight=[1, 4])

    assert headers.tensors(tmp_path).keys() == {"model.norm.weight"}
    assert headers.in_files([head]).keys() == {"v_head.summary.weight"}


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"score.weight": "c.safetensors"}, "c.safetensors is missing"),
        ({"score.weight": "a.safetensors"}, "places 'score.weight' in a.safetensors, which"),
        ({"score.weight": 1}, "is not a valid index"),
        ({"score.weight": "../b.safetensors"}, "is not a valid index"),
        ({"score.weight": "/b.safetensors"}, "is not a valid index"),
        ({"score.weight": "b.bin"}, "is not a valid index"),
        ([], "is not a valid index"),
    ],
)
def test_an_index_that_isnt_so_is_refused(tmp_path, places, message):
    """A missing shard, a tensor that isn't in its shard and a broken index each say so."""
    sharded(tmp_path, places)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        headers.tensors(tmp_path)


@pytest.mark.parametrize("keep", [3, 40, -2])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    """The cut is found in the header alone, wherever it is."""
    file = saved(tmp_path / headers.WEIGHTS, score__weight=[1, 4])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        headers.tensors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no config.json"), ("{", "not valid JSON"), ("[]", "not a JSON object")],
)
def test_a_config_that_cant_be_read_is_refused(tmp_path, content, message):
    """A missing, broken or misshapen config.json each say so."""
    if content is not None:
        (tmp_path / headers.CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        headers.config(tmp_path)


@pytest.mark.parametrize(
    ("config", "count"),
    [({}, 2), ({"num_labels": 3}, 3), ({"id2label": {"0": "LABEL_0"}, "num_labels": 3}, 1)],
)
def test_labels_are_counted_as_transformers_does(config, count):
    """`id2label` decides, then `num_labels`, and two is what nothing means."""
    assert headers.labels(config) == count


def weights(path, head=1.0, dtype=np.float32):
    """Write a trunk's tensor and a head's to one file."""
    norm = np.linspace(-3, 3, 64, dtype=np.float32)
    save_file(
        {"model.norm.weight": norm.astype(dtype), "score.weight": np.full((1, 64), head, dtype)},
        path,
    )
    return path


def shards(folder, index=headers.INDEX, head=1.0, mark="a"):
    """Write an index over two shards that hold what `weights` writes."""
    norm = np.linspace(-3, 3, 64, dtype=np.float32)
    save_file({"model.norm.weight": norm}, folder / f"{mark}1.safetensors")
    save_file({"score.weight": np.full((1, 64), head, np.float32)}, folder / f"{mark}2.safetensors")
    places = {"model.norm.weight": f"{mark}1.safetensors", "score.weight": f"{mark}2.safetensors"}
    (folder / index).write_text(json.dumps({"weight_map": places}))


def test_two_sets_of_other_values_are_refused_by_name(tmp_path):
    """Headers agree and one number doesn't: nobody can say which of the two is meant."""
    weights(tmp_path / headers.WEIGHTS)
    shards(tmp_path, head=1.5)

    message = f"two sets of weights that aren't equal, {headers.WEIGHTS} and {headers.INDEX}"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        headers.tensors(tmp_path)


@pytest.mark.parametrize(
    "index", ["model.safetensors.index.fp16.json", "reward.safetensors.index.json"]
)
def test_a_second_index_is_a_second_set(tmp_path, index):
    """Two indexes over shards of other values are as ambiguous as an index beside a file."""
    shards(tmp_path)
    shards(tmp_path, index, head=1.5, mark="b")

    with pytest.raises(CheckpointError, match=re.escape(f"{headers.INDEX} and {index}")):
        headers.tensors(tmp_path)


def test_two_equal_sets_are_one(tmp_path):
    """The same bits twice leave nothing open; every reader gets the single file's."""
    file = weights(tmp_path / headers.WEIGHTS)
    shards(tmp_path)

    found = headers.weights(tmp_path)

    assert found.name == headers.WEIGHTS
    assert set(found.files.values()) == {file}


@pytest.mark.parametrize(("head", "is_taken"), [(0.1, True), (0.2, False)])
def test_a_variant_is_the_same_where_it_is_only_rounded(tmp_path, head, is_taken):
    """`model.fp16.safetensors` may hold the same numbers in half precision, and no others."""
    file = weights(tmp_path / headers.WEIGHTS, head=0.1)
    weights(tmp_path / "model.fp16.safetensors", head=head, dtype=np.float16)

    if is_taken:
        assert set(headers.weights(tmp_path).files.values()) == {file}
        return
    with pytest.raises(CheckpointError, match=r"model\.safetensors and model\.fp16\.safetensors"):
        headers.tensors(tmp_path)


def test_half_the_precision_is_another_set_under_transformers_own_names(tmp_path):
    """Rounded shards beside a file of float32 give other scores, whichever is older."""
    weights(tmp_path / headers.WEIGHTS, head=0.1)
    save_file(
        {
            "model.norm.weight": np.linspace(-3, 3, 64, dtype=np.float16),
            "score.weight": np.full((1, 64), 0.1, np.float16),
        },
        tmp_path / "a.safetensors",
    )
    places = dict.fromkeys(("model.norm.weight", "score.weight"), "a.safetensors")
    (tmp_path / headers.INDEX).write_text(json.dumps({"weight_map": places}))

    with pytest.raises(CheckpointError, match="aren't equal"):
        headers.tensors(tmp_path)


def test_a_variant_alone_is_the_checkpoint(tmp_path):
    """One whole set is enough, whatever it is called."""
    weights(tmp_path / "model.fp16.safetensors")
    assert headers.weights(tmp_path).name == "model.fp16.safetensors"


def test_mistrals_own_file_is_no_second_set(tmp_path):
    """`consolidated.safetensors` has other names for the same weights; transformers skips it."""
    weights(tmp_path / headers.WEIGHTS)
    saved(tmp_path / "consolidated.safetensors", norm__weight=[4])
    (tmp_path / "original").mkdir()
    weights(tmp_path / "original" / headers.WEIGHTS, head=9.0)

    assert headers.weights(tmp_path).name == headers.WEIGHTS


@pytest.mark.parametrize(("head", "is_taken"), [(1.0, True), (1.5, False)])
def test_a_consolidated_file_of_the_same_names_is_a_second_set(tmp_path, head, is_taken):
    """Under transformers' own names it isn't Mistral's; unless it is equal, neither is meant."""
    file = weights(tmp_path / headers.WEIGHTS)
    weights(tmp_path / "consolidated.safetensors", head=head)

    if is_taken:
        assert set(headers.weights(tmp_path).files.values()) == {file}
        return
    with pytest.raises(CheckpointError, match=r"model\.safetensors and consolidated\.safetensors"):
        headers.tensors(tmp_path)


def refused_for(folder, broken, whole):
    """Read a folder's weights; return why, where both sets and the one to move away are named."""
    with pytest.raises(CheckpointError) as error:
        headers.tensors(folder)
    said, _, reason = error.value.message.partition(" or else mend it: ")
    assert f"{folder} holds two sets of weights, {whole} and {broken}" in said
    assert f"move {broken} away" in said
    return reason


@pytest.mark.parametrize("whole", [headers.WEIGHTS, "model.fp16.safetensors"])
def test_an_index_without_its_shards_beside_a_whole_file_is_refused(tmp_path, whole):
    """What is left of another set doesn't decide, and isn't passed over: the way out is named."""
    weights(tmp_path / whole)
    shards(tmp_path, head=1.5)
    (tmp_path / "a2.safetensors").unlink()

    assert "a2.safetensors is missing" in refused_for(tmp_path, headers.INDEX, whole)


def test_a_broken_index_beside_a_whole_file_is_refused(tmp_path):
    """However it is broken."""
    weights(tmp_path / headers.WEIGHTS)
    for index, reason in (
        ("{", "not valid JSON"),
        ("{}", "not a valid index"),
        (json.dumps({"weight_map": {"other": headers.WEIGHTS}}), "doesn't hold it"),
    ):
        (tmp_path / headers.INDEX).write_text(index)
        assert reason in refused_for(tmp_path, headers.INDEX, headers.WEIGHTS)


def test_a_file_cut_short_beside_whole_shards_is_refused(tmp_path):
    """transformers would take the damaged one."""
    file = weights(tmp_path / headers.WEIGHTS)
    shards(tmp_path)
    file.write_bytes(file.read_bytes()[:-2])

    assert "damaged or cut short" in refused_for(tmp_path, headers.WEIGHTS, headers.INDEX)


def test_nothing_is_moved_away_where_no_set_is_whole(tmp_path):
    """The advice would lead to the next refusal only."""
    file = weights(tmp_path / headers.WEIGHTS)
    shards(tmp_path)
    file.write_bytes(file.read_bytes()[:-2])
    (tmp_path / "a2.safetensors").unlink()

    with pytest.raises(CheckpointError) as error:
        headers.tensors(tmp_path)
    assert "damaged or cut short" in error.value.message
    assert "two sets" not in error.value.message


def test_a_tensor_that_two_shards_hold_must_be_one(tmp_path):
    """Of two values of one tensor, which is read would hang on the order of the files."""
    shards(tmp_path)
    save_file({"score.weight": np.full((1, 64), 2.0, np.float32)}, tmp_path / "a3.safetensors")
    index = json.loads((tmp_path / headers.INDEX).read_text())
    index["weight_map"]["other"] = "a3.safetensors"
    (tmp_path / headers.INDEX).write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=r"'score\.weight' has one value in .*a2.* a.*a3"):
        headers.tensors(tmp_path)


def test_the_file_that_config_names_is_the_one(tmp_path):
    """transformers takes `transformers_weights` before its own names, so everybody must."""
    weights(tmp_path / headers.WEIGHTS)
    other = weights(tmp_path / "tuned.safetensors", head=2.0)
    (tmp_path / headers.CONFIG).write_text('{"transformers_weights": "tuned.safetensors"}')

    assert set(headers.weights(tmp_path).files.values()) == {other}


@pytest.mark.parametrize("name", ["../x.safetensors", "original/x.safetensors", "x.bin", 3])
def test_config_names_no_file_outside_the_revision(tmp_path, name):
    """A file elsewhere would be loaded, and its bytes would be in no revision."""
    weights(tmp_path / headers.WEIGHTS)
    (tmp_path / headers.CONFIG).write_text(json.dumps({"transformers_weights": name}))

    with pytest.raises(CheckpointError, match="'transformers_weights' must name"):
        headers.tensors(tmp_path)


@pytest.mark.parametrize("name", [headers.CONFIG, headers.INDEX, "adapter_config.json"])
def test_json_that_is_nested_deep_is_refused_in_a_sentence(tmp_path, name):
    """It is the file's fault, no defect of ours."""
    path = tmp_path / name
    path.write_text('{"a":' + "[" * 200_000 + "]" * 200_000 + "}")

    with pytest.raises(CheckpointError, match="is nested too deep"):
        headers.json_object(path)


def test_json_with_a_number_that_python_does_not_read_is_refused(tmp_path):
    """In a sentence, as what isn't JSON."""
    path = tmp_path / headers.CONFIG
    path.write_text(f'{{"hidden_size": {"1" * 5_000}}}')

    with pytest.raises(CheckpointError, match="is not valid JSON: Exceeds the limit"):
        headers.json_object(path)


def test_json_without_end_is_refused_unread(tmp_path):
    """It would be held in memory whole, and then again as what it says."""
    path = tmp_path / headers.CONFIG
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room

    with pytest.raises(CheckpointError, match="which no such file has"):
        headers.json_object(path)


def test_a_heads_file_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    """Its tensors would be those of somebody else's file."""
    folder = tmp_path / "judge"
    folder.mkdir()
    outside = saved(tmp_path / "secret.safetensors", score__weight=[1, 4])
    (folder / "head.safetensors").symlink_to(outside)

    with pytest.raises(CheckpointError, match="leads out of its folder"):
        headers.of_head_file(folder, "head.safetensors")
