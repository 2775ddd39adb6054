import yaml
from hypothesis import given
from hypothesis import strategies as st

from loupe.executors import share_threads
from loupe.recipe import Recipe, read_recipe, write_recipe

rates = st.floats(1e-12, 10)
shares = st.floats(0, 0.99)
stages = st.lists(
    st.one_of(
        st.fixed_dictionaries({"train": st.just("head")}, optional={"l2": rates}),
        st.fixed_dictionaries(
            {"train": st.just("all"), "epochs": st.integers(1, 50)}, optional={"lr": rates}
        ),
    ),
    min_size=1,
    max_size=3,
)
recipes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**40),
        "network": st.fixed_dictionaries({"name": st.text(min_size=1, max_size=8)}),
        "optimizer": st.fixed_dictionaries({"lr": rates, "weight_decay": shares}),
        "schedule": st.fixed_dictionaries({"warmup": shares, "floor": shares}),
        "stages": stages,
        "ema": shares,
    },
)


@given(recipes)
def test_yaml_gives_back_every_recipe(values):
    recipe = Recipe.model_validate(values)
    text = write_recipe(recipe)
    again = read_recipe(yaml.safe_load(text))
    assert again == recipe
    assert again.digest() == recipe.digest()


@given(recipes, rates)
def test_an_override_changes_one_field_alone(values, rate):
    changed = read_recipe(values, [f"optimizer.lr={rate!r}"])
    plain = read_recipe(values)
    assert changed.optimizer.lr == rate
    back = changed.optimizer.model_copy(update={"lr": plain.optimizer.lr})
    assert changed.model_copy(update={"optimizer": back}) == plain


@given(st.integers(0, 60), st.integers(1, 64))
def test_shared_threads_keep_the_cores_busy(jobs, cores):
    threads = share_threads(jobs, cores)
    assert len(threads) == jobs
    assert list(threads) == sorted(threads)
    wide = jobs % cores
    assert set(threads[: jobs - wide]) <= {1}
    # The jobs at the end share all cores: no further thread for each would fit.
    assert not wide or cores - wide < sum(threads[jobs - wide :]) <= cores
