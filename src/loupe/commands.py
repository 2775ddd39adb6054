"""The commands that use what was trained: predict, blend, decide, score, compare.

Exit codes as in `cli`: 1 if something must be looked at. It must not hold logic.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loupe.maskcommands import SIZE, is_mask_file, score_mask_file, score_run_masks
from loupe.options import (
    choose_reporter,
    evidence_options,
    group_option,
    part_options,
    read_source,
    read_truth,
    table_options,
)

if TYPE_CHECKING:
    from loupe.answers import Answers
    from loupe.predictions import Bools, Predictions
    from loupe.table import Table


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("source", metavar="IMAGES|TABLE", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the images.")
@click.option("--image-column", help="Column with the image's file name.")
@click.option("--group-column", help="Column of what a rule by group decides once.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="CSV to write.")
@click.option("--tta", "views", type=click.IntRange(1, 4), help="Views; default: the recipe's.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["labels", "probabilities", "submission"]),
    help="Default: labels; submission where its options are given.",
)
@click.option("--like", type=click.Path(path_type=Path), help="Sample submission to repeat.")
@click.option("--columns", help="Columns of the submission, with commas.")
@click.option("--no-header", is_flag=True, help="Submission without its header line.")
@click.option("--index", is_flag=True, help="Submission with a leading index column.")
@click.option("--numbers", is_flag=True, help="Class numbers in place of names.")
@click.option("--rule", type=click.Path(path_type=Path), help="Default: the run's rule.json.")
@click.option("--calibrated", is_flag=True, help="Probabilities after the rule's calibration.")
@click.option(
    "--review", type=click.Path(path_type=Path), help="CSV of the images a person should look at."
)
@click.option("--device", default="auto", show_default=True)
def predict(
    run: Path,
    source: Path,
    out: Path,
    views: int | None,
    device: str,
    **writing: Any,
) -> None:
    """Predict images with all folds of a run, and decide by its rule.

    Exit code 1 if some images could not be read; their rows say why.
    """
    import loupe
    from loupe.ensembles import count_run_views
    from loupe.ruling import check_ruling, find_rule, rule_predictions, write_review

    reading = {name: writing.pop(name) for name in ("images", "image_column", "group_column")}
    given = {name: writing.pop(name) for name in ("rule", "calibrated", "review")}
    table = read_source(source, {"layout": "images", **reading})
    opened = loupe.open_run(run)
    trained, rule = opened.table(), find_rule(opened.rule_file, given["rule"])
    form, options = _choose_form(writing, calibrated=given["calibrated"])
    # Refused now, rather than after hours of prediction.
    _check_writing(out, form, table, trained, options)
    for note in check_ruling(
        rule, trained.classes, table, calibrated=given["calibrated"], review=given["review"]
    ):
        click.echo(f"! {note}")
    predictions = loupe.predict(run, table, views=views, device=device, reporter=choose_reporter())
    decided = rule_predictions(rule, predictions, table)
    answers = _answer(predictions, decided.decisions, trained)
    if given["calibrated"]:
        answers = replace(answers, probs=decided.probs)
    elif form == "probabilities":
        answers = replace(answers, probs=answers.probs * count_run_views(opened, views=views))
    _write_predictions(out, form, answers, options)
    show_shares(predictions, decided.decisions)
    if given["review"]:
        count = write_review(given["review"], predictions, decided)
        click.echo(f"wrote {given['review']}: {count} image(s) for a person to look at")
    failed = int((~predictions.readable).sum())
    seen = int((~predictions.held_out & predictions.readable).sum())
    if seen:
        click.echo(f"! the run was trained on {seen} of these images: their scores flatter")
    if failed:
        click.echo(f"! {failed} image(s) could not be read; their rows say why", err=True)
    click.echo(f"wrote {out}")
    sys.exit(1 if failed else 0)


@click.command()
@click.argument(
    "sources", nargs=-1, required=True, metavar="RUN|PREDS...", type=click.Path(path_type=Path)
)
@evidence_options
@click.option("--weights", help="By hand, with commas, as 0.8,0.2; nothing is fitted.")
@click.option(
    "--method",
    default="auto",
    type=click.Choice(["auto", "mean", "simplex", "greedy"]),
    show_default=True,
    help="auto: fitted weights if they beat the plain mean significantly, else the mean.",
)
@click.option(
    "--metric", default="log_loss", show_default=True, help="What fitted weights are good at."
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the blend; or a .csv or .parquet of the mean of predictions files.",
)
@click.pass_context
def blend(
    context: click.Context,
    /,
    sources: tuple[Path, ...],
    out: Path,
    weights: str | None,
    **options: Any,
) -> None:
    """Blend runs or predictions files; weights are fitted on held-out rows.

    The blend is used like a run: decide, score, compare, and predict if runs were blended.
    """
    import loupe
    from loupe.decisions import mix_files
    from loupe.terminal import make_console, show_scores

    shares = _read_weights(weights)
    if shares is not None:
        _refuse_given(context, ("method", "metric"), "choose(s) weights; leave --weights out.")
    if out.suffix.lower() in {".csv", ".parquet"}:
        wanted = [name for name in options if name != "method"]
        _refuse_given(
            context, wanted, f"need(s) held-out rows; {out} is only mixed. Name a folder."
        )
        if shares is None and options["method"] not in {"auto", "mean"}:
            raise click.UsageError(
                f"--method {options['method']} writes a folder; --out names one."
            )
        mix_files(sources, out, shares)
        kind = "the mean" if shares is None else "the weighted mean"
        click.echo(f"wrote {out}: {kind} of {len(sources)} files")
        return
    truth, options = read_truth(options)
    run = loupe.blend(sources, truth, out=out, weights=shares, **options)
    from loupe.scoring import read_scores

    show_scores(make_console(), read_scores(run), run.manifest()["stamps"])
    made = run.blend
    if made is not None:
        pairs = zip(run.members, made.weights, strict=True)
        click.echo("weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in pairs))
        click.echo(made.verdict)
    click.echo(f"\n{run.instructions_file.read_text(encoding='utf-8')}", nl=False)


@click.command()
@click.argument("source", metavar="RUN|PREDS", type=click.Path(path_type=Path))
@evidence_options
@click.option("--metric", help="f1, f2, f0.5: largest F-score.  [default: f1 if it beats 0.5]")
@click.option("--recall", type=float, help="Largest threshold that finds this share.")
@click.option("--precision", type=float, help="Lowest threshold at which this share is right.")
@click.option("--cost", type=float, help="A miss costs so many false alarms.")
@click.option("--threshold", type=float, help="A fixed threshold.")
@click.option(
    "--class",
    "class_goals",
    multiple=True,
    metavar="NAME=GOAL",
    help="A goal of one class, as crack=recall:0.99; the others keep theirs.",
)
@click.option(
    "--calibration",
    default="auto",
    type=click.Choice(["auto", "none", "temperature", "platt", "isotonic"]),
    show_default=True,
)
@click.option(
    "--coverage", type=float, help="Send rows to a person that are not sure at this coverage."
)
@group_option
@click.option("--resamples", default=1000, type=click.IntRange(0), show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Default: rule.json in the run, or beside the predictions.",
)
def decide(source: Path, out: Path | None, **options: Any) -> None:
    """Choose thresholds on held-out rows, and say what they are worth.

    The rule is written to RUN/rule.json; predict, compare and score of that run follow it.
    """
    import loupe
    from loupe.decisions import place_rule
    from loupe.showing import show_decision
    from loupe.terminal import make_console

    goals = _read_goals(options)
    truth, options = read_truth(options)
    decision = loupe.decide(source, truth, goals=goals, out=out, **options)
    show_decision(make_console(), decision)
    click.echo(f"wrote {out or place_rule(source)}")
    _suggest_after(source, out)


@click.command()
@click.argument("source", metavar="RUN|PREDS", type=click.Path(path_type=Path))
@click.argument("table", type=click.Path(path_type=Path))
@table_options
@click.option("--rule", type=click.Path(path_type=Path), help="Default: the run's own.")
@group_option
@click.option("--held-out", is_flag=True, help="All rows of PREDS were held out.")
@click.option(
    "--group",
    default="auto",
    type=click.Choice(["auto", "given", "none"]),
    show_default=True,
    help="auto: copies of training images are looked for, too.",
)
@click.option("--allow-leak", is_flag=True, help="Go on with rows seen in training; stamped.")
@click.option("--device", default="auto", show_default=True)
@click.option("--size", type=SIZE, help="Of a file of masks: the size that it was made for.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the scores as JSON.")
def score(source: Path, table: Path, out: Path | None, **options: Any) -> None:
    """Score the stored rule on rows never trained on, or masks: a run's, or anyone's file.

    Of a table with a hold-out only that is scored. Exit code 1 if some images could not be
    read.
    """
    import loupe
    from loupe.grading import write_graded
    from loupe.showing import show_graded
    from loupe.terminal import make_console

    reading, options = part_options(options)
    is_run, is_file = source.is_dir(), is_mask_file(source)
    found = read_source(table, reading | {"need_images": is_run})
    if is_file:
        score_mask_file(source, found, options | {"out": out})
    elif is_run and loupe.open_run(source).segments:
        score_run_masks(source, found, options | {"out": out})
    if options.pop("size"):
        raise click.UsageError("--size is for a file of masks.")
    graded = loupe.score(source, found, reporter=choose_reporter(), **options)
    show_graded(make_console(), graded)
    if out is not None:
        write_graded(graded, out)
        click.echo(f"wrote {out}")
    sys.exit(1 if graded.unread else 0)


@click.command()
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@evidence_options
@click.option("--metric", default="", help="What decides.  [default: accuracy, AP or Dice]")
@click.option("--resamples", default=2000, type=click.IntRange(1), show_default=True)
@click.option("--seed", default=0, show_default=True)
def compare(a: Path, b: Path, **options: Any) -> None:
    """Compare two runs or predictions files on the rows that both held out.

    Two runs that draw masks are compared by Dice, each by its own cuts. A run before 'loupe
    relabel' and one after it, in this order: did cleaning help?
    """
    import loupe
    from loupe.showing import show_comparison
    from loupe.terminal import make_console

    truth, options = read_truth(options)
    comparison = loupe.compare(a, b, truth, **options)
    show_comparison(make_console(), comparison)


COMMANDS = (predict, blend, decide, score, compare)


def _read_weights(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no list of numbers; expected one for each source, as 0.8,0.2",
            param_hint="--weights",
        ) from None


def _read_goals(options: dict[str, Any]) -> dict[str, str]:
    """Take the goals out of the options: "" for all classes, and those of single ones."""
    given = {name: options.pop(name) for name in ("recall", "precision", "cost", "threshold")}
    for name in ("recall", "precision"):
        _refuse_per_cent(name, given[name])
    _refuse_per_cent("coverage", options["coverage"])
    spelled = [f"{name}:{value}" for name, value in given.items() if value is not None]
    metric = options.pop("metric")
    goals = [text.replace("threshold:", "fixed:") for text in spelled] + (
        [metric] if metric else []
    )
    if len(goals) > 1:
        raise click.UsageError(
            "choose one of --metric, --recall, --precision, --cost and --threshold for all "
            "classes; give single classes others with --class NAME=GOAL."
        )
    found = {"": goals[0]} if goals else {}
    for text in options.pop("class_goals"):
        name, separator, goal = text.rpartition("=")
        if not separator:
            raise click.BadParameter(
                f"{text!r}; expected NAME=GOAL, as crack=recall:0.99", param_hint="--class"
            )
        found[name] = goal
    return found


def _refuse_per_cent(name: str, value: float | None) -> None:
    if value is not None and value > 1:
        raise click.BadParameter(
            f"{value:g} is more than 1; expected a share, as {min(value, 100) / 100:g} for "
            f"{min(value, 100):g} %",
            param_hint=f"--{name}",
        )


def _refuse_given(context: click.Context, names: Sequence[str], reason: str) -> None:
    """Refuse options that would have no effect, if the user typed them."""
    typed = click.core.ParameterSource.COMMANDLINE
    spelled = {p.name: p.opts[0] for p in context.command.params}
    given = [spelled[n] for n in names if context.get_parameter_source(n) is typed]
    if given:
        raise click.UsageError(f"{', '.join(given)} {reason}")


def _suggest_after(source: Path, out: Path | None) -> None:
    """Say what to do next."""
    from loupe.decisions import has_networks, place_rule

    if has_networks(source):
        rule = "" if out is None else f" --rule {out}"
        click.echo(f"next: loupe predict {source} IMAGES{rule} --out predictions.csv")
        click.echo(f"      loupe score {source} TABLE   (rows never trained on)")
    else:
        place = out or place_rule(source)
        click.echo(f"next: loupe score NEW_PREDS TABLE --rule {place} --held-out")


def _choose_form(writing: dict[str, Any], *, calibrated: bool) -> tuple[Any, dict[str, Any]]:
    """Part the form from the options of a submission, which imply it."""
    form = writing.pop("form")
    if calibrated and form == "labels":
        raise click.UsageError("--calibrated is about probabilities; leave --format labels out.")
    if calibrated and form is None and not any(writing.values()):
        form = "probabilities"
    columns = writing["columns"]
    writing["columns"] = tuple(columns.split(",")) if columns else None
    given = [name for name, value in writing.items() if value]
    if form in (None, "submission"):
        return "submission" if given or form else "labels", writing
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{names} shape a submission; leave out --format {form}.")
    return form, writing


def _check_writing(
    out: Path, form: Any, table: Table, trained: Table, options: dict[str, Any]
) -> None:
    from loupe.submissions import check_writing

    check_writing(
        out,
        form,
        ids=[*table.ids, *(row.id for row in table.quarantined)],
        classes=trained.classes,
        exclusive=trained.exclusive,
        layout=trained.layout,
        like=options["like"],
        columns=options["columns"],
        numbers=options["numbers"],
    )


def _answer(predictions: Predictions, decisions: Bools, trained: Table) -> Answers:
    from loupe.answers import Answers

    return Answers(
        ids=predictions.ids,
        classes=predictions.classes,
        probs=predictions.probs,
        decisions=decisions,
        exclusive=predictions.exclusive,
        errors=predictions.errors,
        layout=trained.layout,
    )


def _write_predictions(out: Path, form: Any, answers: Answers, options: dict[str, Any]) -> None:
    from loupe import submissions

    if form == "labels":
        submissions.write_labels(out, answers)
    elif form == "probabilities":
        submissions.write_probabilities(out, answers)
    else:
        header = not options.pop("no_header")
        for note in submissions.write_submission(out, answers, header=header, **options):
            click.echo(f"· {note}")


def show_shares(predictions: Predictions, decisions: Bools) -> None:
    """Print how many images were given each class."""
    rows = max(1, int(predictions.readable.sum()))
    counts = decisions.sum(axis=0)
    shares = [
        f"{name} {int(n)} ({n / rows:.1%})"
        for name, n in zip(predictions.classes, counts, strict=True)
    ]
    click.echo("predicted: " + ", ".join(shares))
