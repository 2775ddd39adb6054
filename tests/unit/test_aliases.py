import pytest
import timm

from loupe.aliases import ALIASES, resolve_alias


@pytest.mark.parametrize("name", ALIASES)
def test_every_alias_is_a_network_with_published_weights(name):
    assert timm.list_pretrained(ALIASES[name]) == [ALIASES[name]]


@pytest.mark.parametrize("name", ALIASES)
def test_an_alias_is_not_spelt_as_timm_spells_a_network(name):
    # timm's own names win, so such an alias would never be looked up.
    assert not timm.is_model(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EfficientNetB6-noisy-student", "tf_efficientnet_b6.ns_jft_in1k"),
        ("efficientnet b7 NOISY STUDENT", "tf_efficientnet_b7.ns_jft_in1k"),
        ("EfficientNet-B2", "tf_efficientnet_b2.aa_in1k"),
        ("Inception_ResNet_V2", "inception_resnet_v2.tf_in1k"),
        ("inceptionv3", "inception_v3.tf_in1k"),
        ("XCEPTION", "legacy_xception.tf_in1k"),
        ("DenseNet-201", "densenet201.tv_in1k"),
        ("resnet 34", "resnet34.tv_in1k"),
    ],
)
def test_case_hyphens_underscores_and_spaces_do_not_matter(name, expected):
    assert resolve_alias(name) == expected


@pytest.mark.parametrize("name", ["", "EfficientNetB8", "Xception.tf_in1k", "resnet", "model"])
def test_other_names_are_no_alias(name):
    assert resolve_alias(name) is None


def test_no_two_aliases_look_the_same():
    assert len({resolve_alias(name) for name in ALIASES}) == len(ALIASES)
    assert all(resolve_alias(name) == target for name, target in ALIASES.items())
