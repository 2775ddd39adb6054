import pytest
import torch

from loupe import probing
from loupe.build import resolve_input
from loupe.executors import share_threads
from loupe.probing import Timing, choose_engine
from loupe.recipe import Engine, read_recipe


def recipe(**engine):
    return read_recipe(
        {
            "network": {"name": "test_resnet", "pretrained": False},
            "input": {"size": 32},
            "engine": engine,
        }
    )


def choose(made, jobs=5, cores=2, device="cpu"):
    spec = resolve_input(made, None)
    return choose_engine(made, spec, device=device, jobs=jobs, cores=cores)


def test_the_probe_fills_every_field_and_says_what_it_timed():
    before = torch.get_num_threads()
    engine, timings = choose(recipe(), jobs=4)
    assert "auto" not in engine.model_dump().values()
    assert engine.threads == share_threads(4, 2)
    assert {t.precision for t in timings} == {"fp32", "bf16"}
    assert all(t.images_per_s > 0 for t in timings)
    assert (engine.precision, engine.channels_last) in {
        (t.precision, t.channels_last) for t in timings
    }
    assert torch.get_num_threads() == before


def test_what_was_given_is_kept_and_nothing_is_timed():
    engine, timings = choose(recipe(precision="fp32", channels_last=False, threads=[1, 3]))
    assert engine == Engine(precision="fp32", channels_last=False, threads=(1, 3))
    assert timings == ()


@pytest.mark.parametrize(
    "given", [{"precision": "bf16"}, {"precision": "fp32"}, {"channels_last": False}]
)
@pytest.mark.parametrize("fastest", [("fp32", True), ("bf16", True), ("fp32", False)])
def test_half_of_the_choice_may_be_given(monkeypatch, given, fastest):
    monkeypatch.setattr(probing, "_time_step", lambda *args: 0.1 if args[-1] == fastest else 1.0)
    engine, _ = choose(recipe(**given))
    for name, value in given.items():
        assert getattr(engine, name) == value
    assert "auto" not in engine.model_dump().values()


@pytest.mark.parametrize(("gain", "chosen"), [(1.04, "fp32"), (1.06, "bf16")])
def test_half_precision_must_be_clearly_faster(gain, chosen):
    timings = (
        Timing("fp32", channels_last=True, images_per_s=100.0),
        Timing("bf16", channels_last=True, images_per_s=100.0 * gain),
        Timing("fp32", channels_last=False, images_per_s=90.0),
    )
    assert probing._pick(timings).precision == chosen


def test_on_an_accelerator_each_job_may_use_all_cores():
    given = recipe(precision="fp32", channels_last=True)
    assert choose(given, jobs=3, cores=8, device="cuda")[0].threads == (8, 8, 8)
