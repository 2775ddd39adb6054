"""The main job as a practitioner writes it today: pandas, Pillow, torchvision, timm, torch.

One file, read from top to bottom like a notebook. It knows nothing of Loupe; that is
its point: it is what Loupe's time and accuracy are held against. Same network and
weights, same layers, same folds, as many passes over the data, same input size:

1. frozen features of every image and its mirror image, once, then for each fold
   scikit-learn's logistic regression on them, C chosen on an inner part of the training
   rows;
2. for each fold, one after another: all layers for some epochs, from that head on, with
   AdamW, warm-up and cosine, BatchNorm statistics kept;
3. the held-out fold predicted, mean of image and mirror image.

torch stays at its defaults: float32, NCHW, its own number of threads.

    python -m benchmarks.plain_loop --table folds.csv --images DIR --weights FILE --out DIR

The table has the columns image, label, fold and perhaps group. Written to --out: oof.csv
(the networks), head.csv (the logistic regressions), features.npy and parts.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T  # noqa: N812 (as torchvision's own examples do)

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]

C_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
WORKERS = 2
SECONDS: dict[str, float] = defaultdict(float)


class Photographs(Dataset[tuple[Tensor, int]]):
    def __init__(self, files: list[Path], labels: NDArray[np.intp], transform: T.Compose) -> None:
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self.files[row]) as image:
            return self.transform(image.convert("RGB")), int(self.labels[row])


def main() -> None:
    args = read_arguments()
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = pd.read_csv(args.table, dtype={"image": str, "label": str}, keep_default_na=False)
    classes = sorted(table["label"].unique())
    labels = table["label"].map(classes.index).to_numpy(np.intp)
    groups = table["group"].to_numpy() if "group" in table else np.arange(len(table))
    files = [args.images / name for name in table["image"]]
    said = read_metadata(args.weights)
    plain, augmented = make_transforms(args.size, said["mean"], said["std"])

    def load(rows: Rows, transform: T.Compose, *, training: bool) -> DataLoader[Any]:
        return DataLoader(
            Photographs([files[row] for row in rows], labels[rows], transform),
            batch_size=args.batch_size,
            shuffle=training,
            drop_last=training and len(rows) >= args.batch_size,
            num_workers=WORKERS,
            persistent_workers=training,
        )

    with timed("features"):
        backbone = make_network(args, said, classes=0).to(device)
        features = extract_features(
            backbone, load(np.arange(len(table)), plain, training=False), device
        )
    probs = np.zeros((len(table), len(classes)), np.float32)
    head_probs = np.zeros_like(probs)
    for fold in sorted(table["fold"].unique()):
        rows = np.flatnonzero(table["fold"] != fold)
        held = np.flatnonzero(table["fold"] == fold)
        with timed("head"):
            head = fit_head(features[rows], labels[rows], groups[rows])
            head_probs[held] = predict_head(head, features[held])
        with timed("train"):
            network = make_network(args, said, classes=len(classes))
            start_from_head(network.get_classifier(), head)
            network = network.to(device)
            loss = train(network, load(rows, augmented, training=True), args, device)
        with timed("predict"):
            probs[held] = predict(network, load(held, plain, training=False), device)
        right = (probs[held].argmax(axis=1) == labels[held]).mean()
        print(f"fold {fold}: training loss {loss:.3f}, accuracy {right:.4f}", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "features.npy", features)
    for name, found in (("oof", probs), ("head", head_probs)):
        columns = [f"prob:{name}" for name in classes]
        sheet = pd.concat([table, pd.DataFrame(found, columns=columns)], axis=1)
        sheet.to_csv(args.out / f"{name}.csv", index=False)
        print(f"{name}: accuracy {(found.argmax(axis=1) == labels).mean():.4f}")
    (args.out / "parts.json").write_text(
        json.dumps({part: round(s, 2) for part, s in SECONDS.items()}, indent=2) + "\n",
        encoding="utf-8",
    )
    print(", ".join(f"{part} {seconds:.1f} s" for part, seconds in SECONDS.items()))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The main job in plain timm and torch.")
    parser.add_argument("--table", type=Path, required=True, help="CSV: image,label,fold[,group]")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@contextmanager
def timed(part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    SECONDS[part] += time.perf_counter() - start


def read_metadata(weights: Path) -> dict[str, Any]:
    """Read what the weights file says of its network and its normalisation."""
    with safe_open(weights, "pt") as file:
        said = file.metadata() or {}
    name = said.get("timm_arch", weights.stem.partition(".")[0])
    published: Any = timm.get_pretrained_cfg(name)
    return {
        "name": name,
        "kwargs": json.loads(said.get("kwargs", "{}")),
        "mean": json.loads(said["mean"]) if "mean" in said else published.mean,
        "std": json.loads(said["std"]) if "std" in said else published.std,
    }


def make_transforms(size: int, mean: list[float], std: list[float]) -> tuple[T.Compose, T.Compose]:
    resize = T.Resize((size, size))
    finish = [T.ToTensor(), T.Normalize(mean, std)]
    augment = [
        T.RandomHorizontalFlip(),
    ]
    return T.Compose([resize, *finish]), T.Compose([resize, *augment, *finish])


def make_network(args: argparse.Namespace, said: dict[str, Any], *, classes: int) -> Any:
    return timm.create_model(
        said["name"],
        pretrained=True,
        num_classes=classes,
        pretrained_cfg_overlay={"file": str(args.weights)},
        **said["kwargs"],
    )


@torch.inference_mode()
def extract_features(network: nn.Module, loader: DataLoader[Any], device: str) -> Floats:
    """Return pooled features of every image and its mirror image, (N, 2, D)."""
    network.eval()
    found = []
    for images, _ in loader:
        moved = images.to(device)
        found.append(torch.stack([network(moved), network(moved.flip(3))], dim=1).cpu())
    return torch.cat(found).numpy()


def fit_head(features: Floats, labels: NDArray[np.intp], groups: NDArray[Any]) -> Pipeline:
    """Fit a logistic regression to both views; C is chosen on a fifth of the rows."""
    inner = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    flat, twice = flatten_views(features), labels.repeat(2)
    one_split = [next(inner.split(flat, twice, groups.repeat(2)))]
    grid = {"logisticregression__C": C_GRID}
    search = GridSearchCV(make_head(), grid, scoring="neg_log_loss", cv=one_split)
    return search.fit(flat, twice).best_estimator_


def make_head(**options: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, **options))


def flatten_views(features: Floats) -> Floats:
    return features.reshape(-1, features.shape[-1])


def predict_head(head: Pipeline, features: Floats) -> Floats:
    """Return the mean probabilities of both views."""
    probs = head.predict_proba(flatten_views(features))
    mean: Floats = probs.reshape(len(features), 2, -1).mean(axis=1)
    return mean


@torch.no_grad()
def start_from_head(layer: nn.Linear, head: Pipeline) -> None:
    """Write a fitted regression into a linear layer, standardisation folded in."""
    scaler, regression = head
    weight, bias = regression.coef_ / scaler.scale_, regression.intercept_
    bias = bias - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: scikit-learn keeps the second's logit only
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.append(0, bias)
    layer.weight.copy_(torch.from_numpy(weight))
    layer.bias.copy_(torch.from_numpy(bias))


def train(
    network: nn.Module, loader: DataLoader[Any], args: argparse.Namespace, device: str
) -> float:
    """Train all layers and return the mean loss of the last epoch."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    steps = args.epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(step, steps, args.warmup)
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    losses: list[float] = []
    for _ in range(args.epochs):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        losses = []
        for images, labels in loader:
            loss = criterion(network(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), args.clip_norm)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return float(np.mean(losses))


def rate(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine, as a share of the peak."""
    warm = int(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.inference_mode()
def predict(network: nn.Module, loader: DataLoader[Any], device: str) -> Floats:
    network.eval()
    found = []
    for images, _ in loader:
        moved = images.to(device)
        views = [network(moved).softmax(dim=1), network(moved.flip(3)).softmax(dim=1)]
        found.append(torch.stack(views).mean(dim=0).cpu())
    return torch.cat(found).numpy()


if __name__ == "__main__":
    main()
