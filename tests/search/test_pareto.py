import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search import InvalidProblemError, hypervolume, hypervolume_history, non_dominated
from tests.reference import pareto as naive


def coarse(dimensions: int, most: int) -> st.SearchStrategy[np.ndarray]:
    """Sets of points on a coarse grid: ties and duplicates are frequent."""
    values = st.integers(0, 6).map(float)
    return st.integers(1, most).flatmap(lambda n: arrays(np.float64, (n, dimensions), elements=values))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mask_equals_comparison_of_every_pair(dimensions, data):
    points = data.draw(coarse(dimensions, 30))
    assert non_dominated(points).tolist() == naive.non_dominated(points).tolist()


def test_mask_respects_directions():
    points = [[0.9, 5.0], [0.8, 4.0], [0.7, 6.0]]
    assert non_dominated(points, ("maximize", "minimize")).tolist() == [True, True, False]
    assert non_dominated(points, ("minimize", "maximize")).tolist() == [False, False, True]


def test_of_equal_points_the_first_is_kept():
    assert non_dominated([[2.0, 2.0], [1.0, 1.0], [1.0, 1.0]]).tolist() == [False, True, False]


def test_mask_of_no_points_is_empty():
    assert non_dominated(np.empty((0, 3)), ("minimize",) * 3).shape == (0,)
    assert non_dominated([]).shape == (0,)


@pytest.mark.parametrize("bad", [[[np.nan, 1.0]], [[np.inf, 1.0]], [1.0, 2.0]])
def test_points_that_cannot_be_compared_are_refused(bad):
    with pytest.raises(InvalidProblemError, match="points have shape"):
        non_dominated(bad)


def test_unknown_direction_is_refused():
    with pytest.raises(InvalidProblemError, match="'down'"):
        non_dominated([[1.0]], ("down",))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_hypervolume_equals_inclusion_and_exclusion(dimensions, data):
    points = data.draw(coarse(dimensions, 8))
    reference = np.full(dimensions, 6.0)
    assert hypervolume(points, reference) == pytest.approx(naive.hypervolume(points, reference), abs=1e-9)


@pytest.mark.parametrize(("dimensions", "n"), [(2, 200), (3, 200), (4, 60)])
@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_of_larger_sets_equals_the_cells_counted(dimensions, n, seed):
    points = np.random.default_rng(seed).integers(0, 12, (n, dimensions)) + np.arange(n)[:, None] % 5
    reference = np.full(dimensions, 13)
    assert hypervolume(points, reference) == naive.hypervolume_on_grid(points, reference)


def test_hypervolume_of_a_continuous_set_agrees_with_monte_carlo():
    rng = np.random.default_rng(3)
    points = np.abs(rng.normal(size=(60, 3)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    samples = rng.random((20_000, 3))
    hit = np.zeros(len(samples), dtype=bool)
    for point in points:
        hit |= (samples >= point).all(axis=1)
    error = 5 * np.sqrt(hit.mean() * (1 - hit.mean()) / len(samples))
    assert hypervolume(points, np.ones(3)) == pytest.approx(hit.mean(), abs=error)


@pytest.mark.parametrize("dimensions", [2, 3, 4, 6])
def test_one_point_dominates_its_box(dimensions):
    assert hypervolume([[0.5] * dimensions], [2.0] * dimensions) == pytest.approx(1.5**dimensions)


@pytest.mark.parametrize("n", [1, 10, 500])
def test_staircase_in_two_dimensions_has_its_closed_form(n):
    x = np.arange(n) / n
    assert hypervolume(np.stack([x, 1 - x - 1 / n], axis=1), [1.0, 1.0]) == pytest.approx((n + 1) / (2 * n))


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_order_of_points_does_not_matter(dimensions):
    rng = np.random.default_rng(0)
    points = rng.random((40, dimensions))
    volumes = [hypervolume(rng.permutation(points), np.ones(dimensions)) for _ in range(5)]
    assert volumes == pytest.approx([volumes[0]] * 5, rel=1e-12)


def test_points_on_or_beyond_the_reference_add_nothing():
    assert hypervolume([[1.0, 0.0], [0.0, 3.0]], [1.0, 1.0]) == 0.0
    assert hypervolume(np.empty((0, 2)), [1.0, 1.0]) == 0.0


@pytest.mark.parametrize("reference", [[1.0], [np.nan, 1.0], [[1.0, 1.0]]])
def test_reference_that_does_not_fit_is_refused(reference):
    with pytest.raises(InvalidProblemError, match="reference"):
        hypervolume([[0.0, 0.0]], reference)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_history_equals_the_hypervolume_of_each_prefix(dimensions):
    points = np.random.default_rng(1).random((40, dimensions)) * 1.3
    points[[0, 7]] = np.nan
    history = hypervolume_history(points, np.ones(dimensions))
    known = [points[: i + 1][~np.isnan(points[: i + 1, 0])] for i in range(len(points))]
    assert history == pytest.approx([hypervolume(prefix, np.ones(dimensions)) for prefix in known], rel=1e-12)
    assert (np.diff(history) >= 0).all()
