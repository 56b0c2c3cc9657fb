"""rco: Knowledge Distillation via Route Constrained Optimization."""

from __future__ import annotations

import pytest
import torch

from distill.methods.rco import RCO, even_route
from tests.methods.given_self import guided
from tests.slow import one_step


def test_rco_copies_the_teacher_on_its_way_and_follows_in_order() -> None:
    data, method = guided(RCO, teacher_epochs=5, route=[1, 3, 5])
    first, second = method.phases()
    batch = next(data.source(8, 1).epoch(1))
    states = {}
    first.begin()
    for method.epoch in range(1, 6):
        one_step(method, first, batch)
        method.after_epoch()
        states[method.epoch] = {k: v.clone() for k, v in method.guide.state_dict().items()}
    for epoch, copy in zip((1, 3, 5), method.copies, strict=True):
        assert all(torch.equal(value, states[epoch][key]) for key, value in copy.state_dict().items())
    second.begin()
    method.epochs, order = 6, []
    for method.epoch in range(1, 7):
        order.append([copy is method.anchor() for copy in method.copies].index(True))
        method.after_epoch()  # the student's epochs are no epochs of the route
    assert order == [0, 0, 1, 1, 2, 2]
    assert all(torch.equal(value, states[1][key]) for key, value in method.copies[0].state_dict().items())
    assert all(name.startswith("student.") for name in one_step(method, second, batch))


def test_the_even_route_ends_with_the_trained_teacher() -> None:
    assert even_route(240, 4) == [60, 120, 180, 240]
    assert even_route(2, 4) == [1, 2]
    for route in ([3, 1], [0, 2], [1, 9]):
        with pytest.raises(ValueError, match=r"method\.route is"):
            guided(RCO, teacher_epochs=5, route=route)
