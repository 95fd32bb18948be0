"""Frozen: used, never trained, never saved."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from tests.tiny import OtherEncoder, TinyEncoder
from xmodal.frozen import Frozen


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = TinyEncoder()
        self.head = nn.Linear(4, 2)


def test_takes_no_gradients_but_lets_them_through() -> None:
    encoder = TinyEncoder()
    inputs = torch.randn(3, 6, requires_grad=True)
    encoder.embed(inputs).sum().backward()
    assert inputs.grad is not None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in encoder.parameters())


def test_stays_in_eval_mode() -> None:
    parent = Parent()
    assert not parent.encoder.training
    parent.train()
    assert parent.head.training
    assert not any(module.training for module in parent.encoder.modules())


def test_statistics_do_not_move() -> None:
    parent = Parent().train()
    before = parent.encoder.net[1].running_mean.clone()
    parent.encoder.embed(torch.randn(8, 6) + 5)
    assert torch.equal(parent.encoder.net[1].running_mean, before)


def test_is_absent_from_state_dicts_and_forgiven() -> None:
    parent = Parent()
    assert set(parent.state_dict()) == {"head.weight", "head.bias"}
    assert not parent.encoder.state_dict()
    Parent().load_state_dict(parent.state_dict())


def test_strict_loading_still_reports_the_trained_part() -> None:
    state = Parent().state_dict()
    del state["head.bias"]
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        Parent().load_state_dict(state)


def test_parameters_assigned_later_are_frozen() -> None:
    encoder = TinyEncoder()
    encoder.scale = nn.Parameter(torch.ones(1))
    encoder.late = nn.Dropout()
    assert not encoder.scale.requires_grad
    assert not encoder.late.training


def test_moves_with_its_parent_and_copies() -> None:
    parent = Parent().double()
    assert parent.encoder.net[0].weight.dtype == torch.float64
    assert not copy.deepcopy(parent).encoder.training


def test_construction_leaves_the_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    for kind in (TinyEncoder, OtherEncoder):
        torch.manual_seed(3)
        kind()
        assert torch.equal(torch.rand(2), expected)


def test_construction_still_depends_on_the_seed() -> None:
    torch.manual_seed(1)
    one = TinyEncoder().net[0].weight
    torch.manual_seed(2)
    assert not torch.equal(one, TinyEncoder().net[0].weight)


def test_signature_survives() -> None:
    assert list(inspect.signature(OtherEncoder).parameters) == ["dim", "hidden"]
    assert isinstance(OtherEncoder(), Frozen)
