import json
import re
import shutil
import subprocess
import sys

import pytest

from loupe.errors import WeightsError
from loupe.weights import (
    digest_file,
    explain_failed,
    explain_missing,
    find_weights,
    list_weights,
    locate_start,
    read_header,
    weights_folder,
)


def write_safetensors(path, tensors=None, meta=None, *, cut=0):
    header, data = {}, b""
    for name, shape in (tensors or {"w": [2, 3]}).items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [len(data), len(data) + size],
        }
        data += bytes(size)
    if meta is not None:
        header["__metadata__"] = meta
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    path.write_bytes(content[: len(content) - cut])
    return path


def test_a_header_says_what_the_weights_need(tmp_path):
    meta = {"timm_arch": "net", "kwargs": '{"pad_type": "same"}', "mean": "[0.1]", "std": "[2]"}
    path = write_safetensors(tmp_path / "any.safetensors", {"a": [2, 3], "b": [], "c": [4]}, meta)
    found = read_header(path)
    assert (found.architecture, found.kwargs) == ("net", {"pad_type": "same"})
    assert (found.mean, found.std, found.parameters) == ((0.1,), (2.0,), 6 + 1 + 4)


def test_without_metadata_the_file_name_says_the_architecture(tmp_path):
    found = read_header(write_safetensors(tmp_path / "resnet18.a1_in1k.safetensors"))
    assert found.architecture == "resnet18"
    assert found.mean is None
    assert found.kwargs == {}


def test_headers_agree_with_the_library_that_wrote_them(weights):
    sizes = {file.architecture: file.parameters for file in list_weights(weights)}
    import timm
    from timm.models import load_state_dict

    expected = sum(
        value.numel() for value in load_state_dict(str(weights / "test_vit.safetensors")).values()
    )
    assert timm.is_model("test_vit")
    assert sizes["test_vit"] == expected


def test_headers_are_read_without_torch(weights):
    code = (
        "import sys; from pathlib import Path; from loupe.weights import list_weights; "
        f"print(len(list_weights(Path({str(weights)!r})))); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'timm', 'safetensors')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_the_exact_file_name_wins(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", meta={"timm_arch": "resnet18"})
    write_safetensors(tmp_path / "resnet18.safetensors")
    write_safetensors(tmp_path / "resnet50.safetensors")
    assert find_weights("resnet18", tmp_path).path.stem == "resnet18"
    assert find_weights("resnet18.a1_in1k", tmp_path).path.stem == "a"
    assert find_weights("vit", tmp_path) is None
    assert find_weights("resnet18", None) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"{'a}",
        (8).to_bytes(8, "little") + b'{"a": 1}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="copy it again") as caught:
        list_weights(tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_cut_off_behind_its_header_is_damaged(tmp_path):
    path = write_safetensors(tmp_path / "cut.safetensors", cut=5)
    with pytest.raises(WeightsError, match="bytes long in place of"):
        read_header(path)


def test_metadata_that_is_no_number_is_damage(tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", meta={"mean": "0.5"})
    with pytest.raises(WeightsError):
        read_header(path)


def test_a_missing_folder_is_named_with_its_origin(tmp_path, monkeypatch):
    assert weights_folder(None) is None
    assert weights_folder(tmp_path) == tmp_path
    with pytest.raises(WeightsError, match="--weights names"):
        weights_folder(tmp_path / "none")
    monkeypatch.setenv("LOUPE_WEIGHTS", str(tmp_path / "other"))
    with pytest.raises(WeightsError, match=r"\$LOUPE_WEIGHTS names"):
        weights_folder(None)
    assert weights_folder(tmp_path) == tmp_path


def test_missing_weights_are_explained_by_what_is_there(tmp_path, weights):
    said = explain_missing("resnet18", weights)
    assert "test_resnet, test_vit" in said
    assert "timm.create_model('resnet18', pretrained=True)" in said
    assert "no safetensors file" in explain_missing("resnet18", tmp_path)
    assert "no local folder" in explain_missing("resnet18", None)


def test_the_command_for_missing_weights_writes_a_file_that_speaks_for_itself(
    tmp_path, monkeypatch
):
    import timm

    said = explain_missing("test_vit", None)
    (code,) = re.findall(r'(?m)^  python -c "([^"\n]*)"$', said)
    assert "pretrained=True" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("pretrained=True", "pretrained=False"), {})  # noqa: S102
    (found,) = list_weights(tmp_path)
    published = timm.get_pretrained_cfg("test_vit")
    assert (found.path.stem, found.architecture, found.kwargs) == ("test_vit", "test_vit", {})
    assert (found.mean, found.std) == (published.mean, published.std)


def test_the_file_of_a_start_must_be_the_same_still(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors")
    digest = digest_file(path)
    assert locate_start("a.safetensors", digest, tmp_path) == path
    write_safetensors(path, {"w": [3, 3]})
    with pytest.raises(WeightsError, match="is another file"):
        locate_start("a.safetensors", digest, tmp_path)
    with pytest.raises(WeightsError, match="is not there"):
        locate_start("b.safetensors", digest, tmp_path)


def test_weights_that_fail_are_explained_by_where_they_came_from(tmp_path):
    error = RuntimeError("Error(s) in loading:\n  size mismatch for a\n  size mismatch for b")
    local = explain_failed(error, "net", "a.safetensors", tmp_path)
    assert local.startswith(f"{tmp_path / 'a.safetensors'}: its weights do not fit network 'net'")
    assert "(Error(s) in loading: size mismatch for a)" in local
    assert "--weights" in explain_failed(error, "net", "", None)
    assert "were not found" in explain_failed(OSError("offline"), "net", "", None)


def test_metadata_win_over_the_published_normalisation(weights, tmp_path):
    from loupe.build import resolve_input
    from loupe.recipe import Recipe

    recipe = Recipe.model_validate({"network": {"name": "test_resnet"}})
    spec = resolve_input(recipe, weights)
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    scratch = Recipe.model_validate({"network": {"name": "test_resnet", "pretrained": False}})
    assert resolve_input(scratch, weights).mean == (0.5, 0.5, 0.5)
    assert resolve_input(recipe, None).mean == (0.5, 0.5, 0.5)
    shutil.copy(weights / "test_vit.safetensors", tmp_path)
    assert resolve_input(recipe, tmp_path).mean == (0.5, 0.5, 0.5)
