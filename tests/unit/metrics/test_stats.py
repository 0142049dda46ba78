import numpy as np
import pytest

from metrics.stats import bootstrap_interval, summary


def test_summary_of_known_values():
    figures = summary(range(11))
    assert (figures.n, figures.mean, figures.median, figures.p10) == (11, 5.0, 5.0, 1.0)
    assert figures.low < 5 < figures.high
    assert figures.as_dict()["p10"] == 1.0


def test_the_interval_is_seeded():
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(size=40), resamples=400) for _ in range(200)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.99


def test_pictures_of_one_subject_are_not_independent():
    values = np.repeat([0.2, 0.5, 0.8], 20)
    groups = np.repeat(["a", "b", "c"], 20)
    low, high = bootstrap_interval(values)
    wide_low, wide_high = bootstrap_interval(values, groups)
    assert wide_high - wide_low > 2 * (high - low)


def test_nothing_to_summarise_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        summary([])
