"""The page of a result of `label_noise`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SEEN = ("random_label", "demo-tiles")
"""Cases on which the ranking was chosen."""
SHORT = {
    "self_confidence": "sc",
    "self_confidence, adjusted": "sc adj.",
    "normalized_margin": "nm",
    "normalized_margin, adjusted": "nm adj.",
    "confidence_weighted_entropy": "cwe",
}
HOW = """\
Out-of-fold probabilities of a frozen EfficientNetV2-B0, its heads solved on the wrong labels; all
sides see the same. `loupe` is the default ranking of an audit (network, noise model, neighbours),
beside it the same without features. cleanlab: `sc` self_confidence, `nm` normalized_margin, `cwe`
confidence_weighted_entropy, `adj.` with adjust_pred_probs. **The lead is over the setting of
cleanlab that is best in that row, chosen with the truth in hand**; its range is over seeds, or for
people's labels (one seed) the 95 % interval of a paired bootstrap over groups."""
TUNED = """\
Rows with * were used to choose the ranking. The other human columns, and paintings with other
planted labels, were looked at while it was made. The tiles are shown in three photographs each,
whose labels were planted wrong one by one: that favours asking the neighbours."""

TIES = """\
Both round estimated counts to whole numbers that keep their sum; of equal remainders either may
give way, and cleanlab's sort does not say which. The last column is cleanlab told our counts."""


def write_page(result: Mapping[str, Any]) -> str:
    """Return the result as tables for people."""
    machine = result["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, load {machine['load'][0]}; "
    where += f"{result['commit']}, {result['date']}"
    lines = [
        "# Which labels are wrong? Rankings and rules where the truth is known",
        "",
        HOW,
        "",
        TUNED,
        "",
        *write_rankings(result["rankings"]),
        "",
        *write_rules(result["rules"]),
        "",
        *write_rates(result["rates"]),
        "",
        *write_twins(result),
        "",
        f"cleanlab {result['versions']['cleanlab']}; {where}",
    ]
    return "\n".join(lines) + "\n"


def write_rankings(found: Sequence[Mapping[str, Any]]) -> list[str]:
    scored = list(found[0]["scores"])
    columns = ["labels", "wrong", *(SHORT.get(name, name) for name in scored)]
    columns += ["lead over best", "range", "lead, no features"]
    lines = ["## Average precision of rankings, mean over seeds", "", *head(columns)]
    for line in found:
        values = line["scores"]
        cells = [
            f"**{values[name]:.3f}**" if name == line["best"] else f"{values[name]:.3f}"
            for name in scored
        ]
        ends = (line["lowest"], line["highest"]) if line["low"] is None else (
            line["low"], line["high"]
        )  # fmt: skip
        star = "*" if line["case"].startswith(SEEN) else ""
        parts = [f"{line['case']}{star}", f"{line['rate']:.1%}", *cells]
        parts += [f"{line['lead']:+.3f}", f"{ends[0]:+.3f} to {ends[1]:+.3f}"]
        parts.append(f"{line['plain_lead']:+.3f}")
        lines.append(f"| {' | '.join(parts)} |")
    won = sum(line["lead"] > 0 for line in found)
    plain = sum(line["plain_lead"] > 0 for line in found)
    text = f"Ahead of the best setting in {won} of {len(found)} rows, without features in {plain}."
    return [*lines, "", text]


def write_rules(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return precision, recall and F1, the means over the cases of each table, and F1 of each."""
    tables = [line for line in found if line["by"] == "data"]
    data = list(dict.fromkeys(line["of"] for line in tables))
    lines = ["## Rules: precision / recall / F1 (flagged), mean over the cases of a table", ""]
    lines += head(["rule", *data])
    at = {(line["of"], line["who"], line["rule"]): line for line in found}
    rules = list(dict.fromkeys((line["who"], line["rule"]) for line in tables))
    rules.sort(key=lambda rule: rule[0] != "loupe")
    for who, rule in rules:
        cells = []
        for name in data:
            line = at.get((name, who, rule))
            cells.append("" if line is None else show_rule(line))
        lines.append(f"| {who} `{rule}` | {' | '.join(cells)} |")
    shown = [rule for rule in rules if rule[0] == "loupe" or rule[1].startswith("low_")]
    lines += ["", "F1 in each case, mean over seeds (cleanlab's twins of our rules left out):", ""]
    lines += head(["labels", *(rule if who == "loupe" else f"cl. {rule}" for who, rule in shown)])
    for case in dict.fromkeys(line["of"] for line in found if line["by"] == "case"):
        each = [at.get((case, *rule)) for rule in shown]
        cells = ["" if line is None else f"{line['f1']:.3f}" for line in each]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return lines


def show_rule(line: Mapping[str, Any]) -> str:
    shown = " / ".join(f"{line[name]:.2f}" for name in ("precision", "recall", "f1"))
    return f"{shown} ({line['flagged']:.0f})"


def write_rates(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Estimated share of wrong labels", ""]
    lines += head(["labels", "true", "estimated", "interval", "holds the truth"])
    for case in dict.fromkeys(line["case"] for line in found):
        some = [line for line in found if line["case"] == case]
        true, rate = (np.mean([line[name] for line in some]) for name in ("true", "estimated"))
        ends, held = "", ""
        if some[0]["low"] is not None:
            low, high = (np.mean([line[name] for line in some]) for name in ("low", "high"))
            ends = f"{low:.3f} to {high:.3f}"
            inside = sum(line["low"] <= line["true"] <= line["high"] for line in some)
            held = f"{inside} of {len(some)}"
        lines.append(f"| {case} | {true:.3f} | {rate:.3f} | {ends} | {held} |")
    text = "The interval holds the chance of which rows were drawn, not the errors of the method."
    return [*lines, "", text, "Of cells: the mean over classes."]


def write_twins(result: Mapping[str, Any]) -> list[str]:
    lines = ["## The same rules as cleanlab's", ""]
    columns = ["rule", "sheets", "rows flagged by cleanlab", "rows that differ"]
    lines += head([*columns, "that differ, counts rounded alike"])
    for rule, same in result["same"].items():
        counts = (same["differ"], same["differ_alike"])
        lines.append(
            f"| `{rule}` | {same['sheets']} | {same['flagged']:,} | {counts[0]} | {counts[1]} |"
        )
    lines += ["", TIES]
    rows = result["speed"][0]["rows"]
    lines += ["", f"Seconds for {rows:,} rows x 10 classes, least of 3 in turns:", ""]
    lines += head(["what", "loupe", "cleanlab", "cleanlab, 1 job", "rows that differ"])
    for line in result["speed"]:
        names = ("loupe", "cleanlab", "cleanlab, 1 job", "differ")
        cells = ["" if line.get(name) is None else str(line[name]) for name in names]
        lines.append(f"| {line['what']} | {' | '.join(cells)} |")
    told = ", ".join(f"`{name}` {seconds} s" for name, seconds in result["imports"].items())
    return [*lines, "", f"To import, least of 5, without Python's own start: {told}."]


def head(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
