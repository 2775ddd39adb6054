"""Draw the pictures that follow from the code: `python -m docs.plots`.

Each is drawn from what the code returns, never from a formula written again here,
and is the same to the byte each time.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loupe.choices import Constant, Cosine, Listed, OneCycle, Plateau, Ramp, Schedule
from loupe.schedules import Standing, follow, rate_at

IMAGES = Path(__file__).parent / "images"
EPOCHS = 30
STEPS = 20  # of an epoch
LR = 1e-3
INK, PALE = "#0072b2", "#767676"  # Okabe and Ito's blue, and a grey that prints

PANELS: list[tuple[str, Schedule]] = [
    ("cosine", Cosine(warmup=0.1, floor=0.1)),
    ("constant", Constant(warmup=0.1)),
    ("ramp", Ramp(sustain_epochs=3)),
    ("one_cycle", OneCycle(warmup=0.3)),
    ("plateau", Plateau(factor=0.5, patience=3)),
    ("listed", Listed(rates=(LR / 5, LR, LR, LR / 2, LR / 2, LR / 4, LR / 4, LR / 10))),
]
NOTES = {
    "cosine": "warmup 0.1, floor 0.1",
    "constant": "warmup 0.1",
    "ramp": "ramp 5, sustain 3, decay 0.8",
    "one_cycle": "warmup 0.3",
    "plateau": "factor 0.5, patience 3",
    "listed": "8 rates, shown over 1e-3",
}


def list_rates(schedule: Schedule) -> list[float]:
    """Return the rate of every step; a plateau follows `made_up_losses`."""
    standing = Standing(None, 0, 0, 1.0)
    rates: list[float] = []
    for epoch, loss in enumerate(made_up_losses()):
        rates += [
            rate_at(
                schedule,
                LR,
                step=epoch * STEPS + step,
                steps_per_epoch=STEPS,
                epochs=EPOCHS,
                standing=standing,
            )
            for step in range(STEPS)
        ]
        if isinstance(schedule, Plateau):
            standing = follow(schedule, standing, loss, lower_is_better=True)
    return rates


def made_up_losses() -> list[float]:
    """Return a loss of each epoch that falls, stays, falls once more and stays."""
    falls = [0.35 + 0.6 * 0.7**epoch for epoch in range(9)]
    stays = [falls[-1] + 0.01 * (epoch % 2) for epoch in range(5)]
    again = [falls[-1] - 0.03 * (epoch + 1) for epoch in range(4)]
    end = [again[-1] + 0.01 * (epoch % 2) for epoch in range(EPOCHS - 18)]
    return falls + stays + again + end


def draw_schedules() -> Figure:
    """Draw the rate of every schedule over one stage, one panel each."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel().tolist()
    for axes, (name, schedule) in zip(panels, PANELS, strict=True):
        _draw_rates(axes, name, schedule)
    _draw_losses(panels[4])
    for axes in panels[3:]:
        axes.set_xlabel("epoch")
    for axes in panels[::3]:
        axes.set_ylabel("learning rate / lr")
    return figure


def main() -> None:
    """Write every picture into docs/images."""
    with mpl.rc_context({"svg.hashsalt": "loupe", "svg.fonttype": "path", "font.size": 10}):
        draw_schedules().savefig(IMAGES / "schedules.svg", metadata={"Date": None})


def _draw_rates(axes: Axes, name: str, schedule: Schedule) -> None:
    epochs = [step / STEPS for step in range(EPOCHS * STEPS)]
    shares = [rate / LR for rate in list_rates(schedule)]
    axes.plot(epochs, shares, color=INK, linewidth=1.8)
    axes.set_title(name, loc="left", fontweight="bold")
    axes.set_title(NOTES[name], loc="right", fontsize=9, color=PALE)
    axes.set(xlim=(0, EPOCHS), ylim=(0, 1.05), xticks=range(0, EPOCHS + 1, 10))
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_losses(axes: Axes) -> None:
    """Show what the plateau watches: the loss at the end of each epoch."""
    ends = [epoch + 1 for epoch in range(EPOCHS)]
    axes.plot(ends, made_up_losses(), color=PALE, linewidth=1, linestyle="--")
    axes.annotate("watched loss", (3.6, 0.62), color=PALE, fontsize=9)


if __name__ == "__main__":
    main()
