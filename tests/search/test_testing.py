import numpy as np
import pytest

from search import hypervolume
from search.testing import DTLZ2, WORST, ZDT


@pytest.mark.parametrize("zdt", [ZDT(), ZDT(2.0), ZDT(0.5, least=0.3), ZDT(2.0, least=0.3)])
def test_sampled_front_has_nearly_the_hypervolume_of_the_formula(zdt):
    points = [
        zdt({"x0": x, **{f"x{i}": 0.0 for i in range(1, zdt.parameters)}}).objectives
        for x in np.linspace(zdt.least, 1, 4000)
    ]
    sampled = hypervolume(points, [WORST, WORST])
    assert 0 < zdt.front_hypervolume() - sampled < 1e-3


def test_sampled_sphere_has_nearly_the_hypervolume_of_the_formula():
    sphere = DTLZ2(parameters=4)
    points = [
        sphere({"x0": a, "x1": b, "x2": 0.5, "x3": 0.5}).objectives
        for a in np.linspace(0, 1, 60)
        for b in np.linspace(0, 1, 60)
    ]
    assert 0 < sphere.front_hypervolume() - hypervolume(points, [WORST] * 3) < 0.05


@pytest.mark.parametrize("problem", [ZDT(parameters=30), ZDT(2.0, 30), DTLZ2(30)])
def test_no_value_reaches_the_reference(problem):
    for value in (0.0, 1.0):
        assert max(problem({f"x{i}": value for i in range(30)}).objectives) < WORST
