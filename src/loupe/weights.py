"""Pretrained weights in a local folder: find them, and read what they say.

A safetensors file may carry `timm_arch`, `kwargs`, `mean` and `std` in its
header; what it carries wins over timm's own configuration, since weights
without their preprocessing are not a model. Only headers are read here: this
module must not import torch or timm.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loupe.errors import WeightsError, shorten

WEIGHTS_VARIABLE = "LOUPE_WEIGHTS"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """One file of pretrained weights, known by its header.

    Attributes:
        path: The safetensors file.
        architecture: timm's name of the network, without a tag.
        kwargs: Extra arguments of `timm.create_model` that the weights need.
        mean: Mean per channel of the input, in [0, 1]; None if not said.
        std: Deviation per channel of the input; None if not said.
        parameters: Number of values in the file.
        names: Names of the tensors.
    """

    path: Path
    architecture: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    parameters: int = 0
    names: frozenset[str] = frozenset()


def weights_folder(folder: str | Path | None) -> Path | None:
    """Return the folder of local weights: the argument, else `$LOUPE_WEIGHTS`.

    Args:
        folder: What `--weights` gave, or None.

    Raises:
        WeightsError: the folder named does not exist.
    """
    named = folder or os.environ.get(WEIGHTS_VARIABLE)
    if not named:
        return None
    path = Path(named)
    if not path.is_dir():
        origin = "--weights" if folder else f"${WEIGHTS_VARIABLE}"
        raise WeightsError(
            f"{origin} names {path}, which is no folder. Name the folder that "
            "holds the safetensors files, or leave it out."
        )
    return path


def list_weights(folder: Path) -> tuple[WeightsFile, ...]:
    """Read the header of every safetensors file of a folder, in order of name.

    Args:
        folder: Where to look; sub-folders are not searched.

    Raises:
        WeightsError: a file's header cannot be read.
    """
    return tuple(read_header(path) for path in sorted(folder.glob("*.safetensors")))


def find_weights(name: str, folder: Path | None) -> WeightsFile | None:
    """Find the local weights of a network.

    A file fits if its name without suffix is `name`, or if its architecture is
    `name` without the tag after the dot; the exact file name wins. A file whose own
    name has another tag holds other weights, and does not fit.

    Args:
        name: timm name, with or without a tag.
        folder: Local weights, or None.
    """
    files = () if folder is None else list_weights(folder)
    exact = [file for file in files if file.path.stem == name]
    base, _, tag = name.partition(".")
    alike = [
        file for file in files if file.architecture == base and (not tag or _tag(file) in {"", tag})
    ]
    return next(iter(exact + alike), None)


def _tag(file: WeightsFile) -> str:
    return file.path.stem.partition(".")[2]


def read_header(path: Path) -> WeightsFile:
    """Read what a safetensors file says of itself.

    Args:
        path: The file.

    Raises:
        WeightsError: the file is no safetensors file, or its metadata is not
            what Loupe expects.

    References:
        safetensors format: 8 bytes of header length (little endian), then JSON.
    """
    try:
        header = _load_header(path)
        meta = header.pop("__metadata__", {})
        return WeightsFile(
            path=path,
            architecture=meta.get("timm_arch", path.stem.partition(".")[0]),
            kwargs=json.loads(meta.get("kwargs", "{}")),
            mean=_floats(meta.get("mean")),
            std=_floats(meta.get("std")),
            names=frozenset(header),
            parameters=sum(math.prod(entry["shape"]) for entry in header.values()),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not readable as a safetensors file ({error}); copy it again."
        ) from None


def digest_file(path: Path) -> str:
    """Return 16 hex digits over the bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def locate_start(file: str, digest: str, folder: Path | None) -> Path:
    """Find the file that a run started from, and make sure that it is the same still.

    Args:
        file: Its name.
        digest: Its `digest_file` at that time.
        folder: Local weights, or None.

    Raises:
        WeightsError: it is not there, or another file has its name.
    """
    path = (folder or Path()) / file
    if path.is_file() and digest_file(path) == digest:
        return path
    raise WeightsError(
        f"the run started from {file} (digest {digest}); {path} is "
        f"{'another file' if path.is_file() else 'not there'}. Name the folder that holds it "
        "with --weights, or train into another --out."
    )


def explain_missing(name: str, folder: Path | None) -> str:
    """Say how to get the weights of a network and where to put them.

    Args:
        name: timm name that was asked for.
        folder: Local folder that was searched, or None.
    """
    if folder is None:
        looked = f"no local folder was named (--weights DIR or ${WEIGHTS_VARIABLE})"
    else:
        held = [file.path.stem for file in list_weights(folder)]
        looked = f"{folder} holds {shorten(held) if held else 'no safetensors file'}"
    return (
        f"pretrained weights of {name!r} were not found: {looked}, and timm's hub could not be "
        f"reached. On a machine with network, run\n"
        f'  python -c "import json, timm; from safetensors.torch import save_file; '
        f"net = timm.create_model('{name}', pretrained=True); cfg = net.pretrained_cfg; "
        f"meta = dict(timm_arch=cfg['architecture'], mean=json.dumps(cfg['mean']), "
        f"std=json.dumps(cfg['std']), kwargs='{{}}'); "
        f"save_file(net.state_dict(), '{name}.safetensors', meta)\"\n"
        f"put the file into a folder and pass --weights FOLDER; or start from scratch with "
        f"--set network.pretrained=false."
    )


def explain_failed(error: Exception, name: str, file: str, folder: Path | None) -> str:
    """Say why pretrained weights could not be loaded into a network.

    Args:
        error: What loading raised.
        name: timm name that was asked for.
        file: Name of the local file; empty if they were to come from timm's hub.
        folder: Local folder that was searched, or None.
    """
    detail = shorten_error(error)
    if file:
        return (
            f"{(folder or Path()) / file}: its weights do not fit network {name!r} ({detail}). If "
            "they belong to another one, name it as 'timm_arch' in the file's metadata, and "
            "arguments it needs as 'kwargs'; or choose another file."
        )
    if isinstance(error, OSError | LookupError):
        return f"{explain_missing(name, folder)}\n({detail})"
    return (
        f"published weights of {name!r} cannot be loaded ({detail}). Name a folder of local ones "
        "with --weights, or start from scratch with --set network.pretrained=false."
    )


def shorten_error(error: Exception) -> str:
    r"""Return the beginning of an error's text, which may list hundreds of layers.

    Examples:
        >>> shorten_error(RuntimeError("does not fit:\n  missing a\n  missing b\n"))
        'does not fit: missing a'
        >>> shorten_error(AssertionError())
        'AssertionError'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200].rstrip(".") or type(error).__name__


def _load_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(_MAX_HEADER_BYTES, path.stat().st_size):
            raise ValueError(f"header of {length} bytes")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise TypeError("header is no JSON object")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected, found = 8 + length + max(ends, default=0), path.stat().st_size
    if found != expected:
        raise ValueError(f"{found:,} bytes long in place of {expected:,}")
    return header


def _floats(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else tuple(float(value) for value in json.loads(text))
