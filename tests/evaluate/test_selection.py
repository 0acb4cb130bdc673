"""Rules: what they look at, what they choose, and how ties fall."""

import numpy as np
import pytest

from embedcal.evaluate import RULES, default_rule, evaluate, rule
from embedcal.types import EmbedcalError


def metrics(*, with_groups=True):
    y, a = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 0, 0, 1])
    guess = np.array([0, 0, 1, 1, 1, 0])
    return evaluate(guess, y, a if with_groups else None, 2, 2 if with_groups else 0)


def test_the_rules_and_the_labels_that_they_use():
    assert {r.name: (r.needs, r.oracle) for r in RULES} == {
        "val.worst_group": ({"val.y", "val.g"}, False),
        "val.worst_class": ({"val.y"}, False),
        "val.env": ({"train.y", "val.y"}, False),
        "val.mean": ({"val.y"}, False),
        "last": (set(), False),
        "oracle.worst_group": ({"test.y", "test.g"}, True),
    }


def test_scores():
    m = metrics()
    assert rule("val.worst_group").score(m) == rule("oracle.worst_group").score(m) == 0.0
    assert rule("val.worst_class").score(m) == pytest.approx(2 / 3)
    assert rule("val.mean").score(m) == pytest.approx(4 / 6)
    assert rule("last").score(m) == 0.0


def test_a_rule_of_environments_scores_the_worst_of_them():
    """Metrics whose groups are the environments: the worst group of these."""
    m = metrics()
    assert rule("val.env").score(m) == rule("val.worst_group").score(m)
    assert rule("val.env").statistic == "worst_env"  # no metric of a split


def test_the_rules_that_a_run_keeps_nothing_for_unless_asked():
    assert {r.name for r in RULES if r.on_demand} == {"val.env", "oracle.worst_group"}
    assert not any(r.reads_groups for r in RULES if r.environments)


def test_a_rule_for_groups_without_groups():
    with pytest.raises(EmbedcalError, match=r"attribute labels on val .*choose 'val.worst_class'"):
        rule("val.worst_group").score(metrics(with_groups=False))


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.name)
def test_the_first_best_wins_and_last_takes_the_last(each):
    scores = [0.1, 0.5, 0.3, 0.5, 0.0]
    best = kept = None
    for epoch, score in enumerate(scores):
        if each.improves(score, best):
            best, kept = score, epoch
    assert kept == (4 if each.name == "last" else 1)


def test_equal_hits_are_equal_scores():
    """Epochs with the same number right tie, whichever rows and groups they are."""
    rng = np.random.default_rng(0)
    y, a = rng.integers(0, 2, 97), rng.integers(0, 2, 97)
    scores = []
    for _ in range(50):
        wrong = rng.permutation(97) < 31
        scores.append(rule("val.mean").score(evaluate(np.where(wrong, 1 - y, y), y, a, 2, 2)))
    assert set(scores) == {66 / 97}


def test_default_rule():
    assert default_rule(True).name == "val.worst_group"
    assert default_rule(False).name == "val.worst_class"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("val.worst_grup", "did you mean val.worst_group"),
        ("val.envs", "did you mean val.env"),
        ("xyz", "val.worst_class needs no group labels"),
    ],
)
def test_unknown_rule(typed, hint):
    with pytest.raises(EmbedcalError, match=hint):
        rule(typed)
