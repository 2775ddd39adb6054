"""Loupe turns a table of labelled images into a model you can trust and ship.

The public names are those of `__all__`; each is loaded when it is first used,
so that `import loupe` is quick and loads no torch.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loupe.agreement import Agreement, merge_reviews
    from loupe.auditing import Audit, audit
    from loupe.cascades import Cascade, read_cascade
    from loupe.cascading import Cascaded, cascade
    from loupe.checking import CheckReport, check
    from loupe.comparing import Comparison
    from loupe.deciding import Decision
    from loupe.decisions import blend, compare, decide
    from loupe.demonstration import Demo, demo
    from loupe.ensembles import predict
    from loupe.errors import (
        AlignmentError,
        ExportError,
        ImageError,
        InputError,
        LeakageError,
        LoupeError,
        MaskError,
        MissingExtraError,
        RecipeError,
        RunError,
        TableError,
        WeightsError,
    )
    from loupe.gating import Gated, gate
    from loupe.grading import Graded, score
    from loupe.layouts import read_table
    from loupe.maskgrading import MaskGraded, score_masks
    from loupe.masksheets import Masks
    from loupe.predictions import Predictions
    from loupe.recipe import Recipe, read_recipe
    from loupe.relabelling import Relabelled, relabel
    from loupe.reporting import Report, report
    from loupe.reviewing import Reviewed, review
    from loupe.rules import Rule, read_rule
    from loupe.runs import Run, open_run
    from loupe.segmenting import Segmented, segment
    from loupe.splitting import split
    from loupe.table import Table
    from loupe.training import train
    from loupe.variants import Variants, try_variants

_HOMES = {
    "agreement": ("Agreement", "merge_reviews"),
    "auditing": ("Audit", "audit"),
    "cascades": ("Cascade", "read_cascade"),
    "cascading": ("Cascaded", "cascade"),
    "checking": ("CheckReport", "check"),
    "comparing": ("Comparison",),
    "deciding": ("Decision",),
    "decisions": ("blend", "compare", "decide"),
    "demonstration": ("Demo", "demo"),
    "ensembles": ("predict",),
    "errors": (
        "AlignmentError",
        "ExportError",
        "ImageError",
        "InputError",
        "LeakageError",
        "LoupeError",
        "MaskError",
        "MissingExtraError",
        "RecipeError",
        "RunError",
        "TableError",
        "WeightsError",
    ),
    "gating": ("Gated", "gate"),
    "grading": ("Graded", "score"),
    "layouts": ("read_table",),
    "maskgrading": ("MaskGraded", "score_masks"),
    "masksheets": ("Masks",),
    "predictions": ("Predictions",),
    "recipe": ("Recipe", "read_recipe"),
    "relabelling": ("Relabelled", "relabel"),
    "reporting": ("Report", "report"),
    "reviewing": ("Reviewed", "review"),
    "rules": ("Rule", "read_rule"),
    "runs": ("Run", "open_run"),
    "segmenting": ("Segmented", "segment"),
    "splitting": ("split",),
    "table": ("Table",),
    "training": ("train",),
    "variants": ("Variants", "try_variants"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Agreement",
    "AlignmentError",
    "Audit",
    "Cascade",
    "Cascaded",
    "CheckReport",
    "Comparison",
    "Decision",
    "Demo",
    "ExportError",
    "Gated",
    "Graded",
    "ImageError",
    "InputError",
    "LeakageError",
    "LoupeError",
    "MaskError",
    "MaskGraded",
    "Masks",
    "MissingExtraError",
    "Predictions",
    "Recipe",
    "RecipeError",
    "Relabelled",
    "Report",
    "Reviewed",
    "Rule",
    "Run",
    "RunError",
    "Segmented",
    "Table",
    "TableError",
    "Variants",
    "WeightsError",
    "audit",
    "blend",
    "cascade",
    "check",
    "compare",
    "decide",
    "demo",
    "gate",
    "merge_reviews",
    "open_run",
    "predict",
    "read_cascade",
    "read_recipe",
    "read_rule",
    "read_table",
    "relabel",
    "report",
    "review",
    "score",
    "score_masks",
    "segment",
    "split",
    "train",
    "try_variants",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name == "__version__":
        return metadata.version("loupe-vision")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'loupe' has no attribute {name!r}")
    try:
        value = getattr(import_module(f"loupe.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in _TRAIN_EXTRA:
            raise
        from loupe.errors import MissingExtraError

        raise MissingExtraError(
            f"loupe.{name} needs {error.name}; install it with: pip install 'loupe-vision[train]'"
        ) from None
    globals()[name] = value
    return value


_TRAIN_EXTRA = {"torch", "torchvision", "timm", "safetensors", "huggingface_hub"}


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
