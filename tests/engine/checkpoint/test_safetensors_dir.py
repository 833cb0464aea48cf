import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.safetensors_dir import INDEX_FILE, SINGLE_FILE, open_checkpoint

TENSORS = {
    "a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "b": torch.arange(4, dtype=torch.float16),
    "c": torch.ones(1000, 8),
}


def write_single(directory: Path) -> None:
    save_file(TENSORS, directory / SINGLE_FILE)


def write_shards(directory: Path) -> None:
    save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, directory / "model-00001-of-00002.safetensors")
    save_file({"c": TENSORS["c"]}, directory / "model-00002-of-00002.safetensors")
    files = {"a": "model-00001-of-00002", "b": "model-00001-of-00002", "c": "model-00002-of-00002"}
    weight_map = {name: f"{file}.safetensors" for name, file in files.items()}
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_shards_without_index(directory: Path) -> None:
    write_shards(directory)
    (directory / INDEX_FILE).unlink()
    save_file(TENSORS, directory / "consolidated.safetensors")  # the same again, under Mistral's name


def write_consolidated(directory: Path) -> None:
    save_file(TENSORS, directory / "consolidated.safetensors")


def write_index_with_byte_order_mark(directory: Path) -> None:
    write_shards(directory)
    (directory / INDEX_FILE).write_bytes(b"\xef\xbb\xbf" + (directory / INDEX_FILE).read_bytes())


WAYS = [write_single, write_shards, write_shards_without_index, write_consolidated, write_index_with_byte_order_mark]


def test_two_sets_of_weights_without_an_index_are_told(tmp_path: Path) -> None:
    for name in ("fp16", "fp32"):
        save_file(TENSORS, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match=r"tensor a is in fp16\.safetensors and in fp32\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("write", WAYS)
def test_tensors_come_back_by_name(tmp_path: Path, write) -> None:
    write(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint) == set(TENSORS)
    assert "a" in checkpoint
    assert "d" not in checkpoint
    for name, want in TENSORS.items():
        got = checkpoint.get(name, want.shape)
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
        assert checkpoint.shape(name) == tuple(want.shape)


def test_a_tensor_shares_the_mapped_file(tmp_path: Path) -> None:
    write_single(tmp_path)
    tensor = open_checkpoint(tmp_path).get("c", (1000, 8))
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    ranges = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in maps]
    assert any(start <= tensor.data_ptr() < end for start, end in ranges)


def test_a_missing_tensor_and_a_wrong_shape_are_named(tmp_path: Path) -> None:
    write_single(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="tensor d is missing"):
        checkpoint.get("d", (1,))
    with pytest.raises(ModelError, match=r"model\.safetensors: tensor a has shape \[2, 3\].*asks for \[3, 2\]"):
        checkpoint.get("a", (3, 2))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / SINGLE_FILE)
    with pytest.raises(ModelError, match=r"tensor a is stored as I8.*choose another version"):
        open_checkpoint(tmp_path).get("a", (2,))


@pytest.mark.parametrize("kept", [0, 4, 50, -1])
@pytest.mark.parametrize("write", [write_single, write_shards])
def test_a_truncated_file_is_named(tmp_path: Path, write, kept: int) -> None:
    write(tmp_path)
    victim = sorted(tmp_path.glob("*.safetensors"))[-1]
    victim.write_bytes(victim.read_bytes()[:kept])
    with pytest.raises(ModelError, match=f"{victim.name}.*damaged or only half downloaded; get it again"):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 of its files missing: model-00002-of-00002\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_not_in_its_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    index["weight_map"]["c"] = "model-00001-of-00002.safetensors"
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"00001-of-00002\.safetensors: tensor c.*is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_broken_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(ModelError, match=INDEX_FILE):
        open_checkpoint(tmp_path)


def test_a_directory_without_safetensors_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\)"):
        open_checkpoint(tmp_path)
