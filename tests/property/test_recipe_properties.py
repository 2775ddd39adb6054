import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.executors import share_threads
from loupe.recipe import Recipe, read_recipe, write_recipe

rates = st.floats(1e-12, 10)
shares = st.floats(0, 0.99)
counts = st.integers(1, 50)
# YAML takes NEL (U+0085) for a line break, quoted or not.
names = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8)


def kinds(key, **fields):
    """Draw a part that comes in kinds: the kind, and some of its fields."""
    return st.one_of(
        [st.fixed_dictionaries({key: st.just(kind)}, optional=own) for kind, own in fields.items()]
    )


weights = st.sampled_from(["none", "balanced"]) | st.dictionaries(
    st.from_regex("[a-z ]{1,6}", fullmatch=True), rates, max_size=3
)
loss = {"label_smoothing": shares, "class_weights": weights}
losses = kinds(
    "name",
    auto=loss,
    cross_entropy=loss,
    bce=loss,
    focal=loss | {"gamma": rates},
    bi_tempered=loss | {"t1": shares, "t2": st.floats(1, 5)},
    taylor=loss | {"terms": counts},
    symmetric=loss | {"alpha": rates, "log_zero": st.floats(-9, -1)},
)
step = {"lr": rates, "clip_norm": st.none() | rates, "clip_value": st.none() | rates}
adam = step | {"weight_decay": shares, "betas": st.tuples(shares, shares), "epsilon": rates}
optimizers = kinds(
    "name",
    adamw=adam,
    adam=adam | {"lr_decay": shares},
    radam=adam,
    sgd=step | {"momentum": shares},
)
schedules = kinds(
    "name",
    cosine={"warmup": shares, "floor": shares},
    constant={"warmup": shares},
    ramp={"start_lr": rates, "factor": rates, "decay": st.floats(0.1, 1)},
    one_cycle={"warmup": shares, "start_divisor": rates},
    plateau={"metric": st.sampled_from(["loss", "recall/a b"]), "patience": counts},
)
mixings = st.fixed_dictionaries({}, optional={"cutmix": st.floats(0, 0.5), "skip_last": st.just(0)})
stage = {"lr": rates, "loss": st.none() | losses, "schedule": st.none() | schedules}
full = st.fixed_dictionaries(
    {"epochs": counts},
    optional=stage | {"train": st.just("all"), "freeze": st.lists(names), "mixing": mixings},
)
head = st.fixed_dictionaries(
    {"train": st.just("head"), "epochs": counts}, optional=stage | {"views": counts}
) | st.fixed_dictionaries({"train": st.just("head")}, optional={"l2": st.just("auto") | rates})
stages = st.builds(
    lambda first, rest: [*first, *rest],
    st.lists(head, max_size=1),
    st.lists(full, min_size=1, max_size=3),
)
recipes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**40),
        "network": st.fixed_dictionaries({"name": names}),
        "input": st.fixed_dictionaries(
            {"size": counts | st.tuples(counts, counts) | st.sampled_from(["x2", "x0.25"])}
        ),
        "mixing": mixings,
        "loss": losses,
        "optimizer": optimizers,
        "schedule": schedules,
        "stages": stages,
        "ema": shares,
        "checkpoint": st.none() | st.fixed_dictionaries({"average": counts}),
    },
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_yaml_gives_back_every_recipe(values):
    recipe = Recipe.model_validate(values)
    text = write_recipe(recipe)
    again = read_recipe(yaml.safe_load(text))
    assert again == recipe
    assert again.digest() == recipe.digest()


@settings(max_examples=60, deadline=None)
@given(recipes, rates)
def test_an_override_changes_one_field_alone(values, rate):
    changed = read_recipe(values, [f"optimizer.lr={rate!r}"])
    plain = read_recipe(values)
    assert changed.optimizer.lr == rate
    back = changed.optimizer.model_copy(update={"lr": plain.optimizer.lr})
    assert changed.model_copy(update={"optimizer": back}) == plain


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_what_is_watched_is_what_controls(values):
    recipe = Recipe.model_validate(values)
    # The recipe's own schedule is that of the stages which have none and train by epochs.
    trained = [stage for stage in recipe.stages if stage.epochs is not None]
    schedules = [stage.schedule or recipe.schedule for stage in trained]
    plateaus = {schedule.metric for schedule in schedules if hasattr(schedule, "patience")}
    wanted = plateaus | ({recipe.checkpoint.metric} if recipe.checkpoint else set())
    assert set(recipe.watched_metrics) == wanted
    assert len(recipe.watched_metrics) == len(wanted)


@given(st.integers(0, 60), st.integers(1, 64))
def test_shared_threads_keep_the_cores_busy(jobs, cores):
    threads = share_threads(jobs, cores)
    assert len(threads) == jobs
    assert list(threads) == sorted(threads)
    wide = jobs % cores
    assert set(threads[: jobs - wide]) <= {1}
    # The jobs at the end share all cores: no further thread for each would fit.
    assert not wide or cores - wide < sum(threads[jobs - wide :]) <= cores
