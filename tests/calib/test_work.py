"""Operations, bytes and memory of code that runs on shapes alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qvggt.calib.machine import MACHINES, Machine, Rates, find_machine
from qvggt.calib.work import Operation, Work, counting
from qvggt.errors import QvggtError

META = torch.device("meta")


def test_a_product_and_what_it_holds() -> None:
    with counting() as counter:
        a, b = torch.empty(8, 16, device=META), torch.empty(16, 32, device=META)
        y = a @ b
        del y
    product = Operation("fp32", 2 * 8 * 16 * 32, 4 * (8 * 16 + 16 * 32 + 8 * 32))
    assert counter.operations[product] == 1
    assert counter.peak == product.bytes, "a, b and y lived together"
    assert counter.live == product.bytes - 4 * 8 * 32


def test_a_loop_is_counted_as_its_first_turn() -> None:
    """Whether the result is new or its first argument, and however many there are."""
    with counting() as counter:
        x = torch.empty(4, 6, dtype=torch.float64, device=META)
        for _ in range(5):
            y = nn.functional.layer_norm(x, (6,))
            low, high = x.aminmax()
            x.mul_(2)
        held = counter.live
    assert sum(counter.operations.values()) == 1 + 5 * 3
    assert held == sum(t.nbytes for t in (x, y, low, high)), "what a turn made is gone after it"
    assert y.shape == x.shape


def test_attention_never_holds_its_scores() -> None:
    q = torch.empty(1, 2, 512, 16, device=META, requires_grad=True)
    with counting() as counter:
        nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    assert counter.peak < 2 * 512 * 512 * 4
    flops = sorted(o.flops for o in counter.operations if o.kind == "attention")
    assert flops == [4 * 2 * 512 * 16 * 512, 10 * 2 * 512 * 16 * 512]


def test_values_have_stand_ins() -> None:
    with counting() as counter:
        x = torch.empty(3, 4, device=META)
        assert float(x.max()) == 0
        assert bool((x > 0).all())
        assert x[x > 1].shape == (12,)
        assert x.cpu().shape == (3, 4)
        assert torch.equal(x, x)
        same = torch.full((3, 4), 7.0)
        same.copy_(x)
    assert float(same.sum()) == 0
    assert sum(count for o, count in counter.operations.items() if o.kind == "copy") == 2


def test_work_is_added_and_taken_off() -> None:
    one, two = Operation("fp32", 10, 1), Operation("none", 0, 5)
    work = Work({one: 2.0, two: 1.0}, 7)
    assert (work + work * 3).flops == 80
    assert (work + Work({}, 9)).peak == 9
    assert ((work + work) - work).bytes == work.bytes == 7
    assert (Work({one: 1.0}) - Work({two: 2.0})).bytes == 1 - 10, "of unlike operations the sums are right as well"


def test_a_kernel_waits_for_arithmetic_or_for_bytes() -> None:
    machine = Machine("it", 1.0, 10.0, 100.0, 5.0, 0, "here", attention=2.0, link=1.0, call=0.5)
    seconds = {
        Operation("fp32", 100, 1): 10,
        Operation("fp64", 100, 1): 100,
        Operation("half", 100, 1): 1,
        Operation("attention", 100, 1): 50,
        Operation("none", 0, 20): 4,
        Operation("copy", 0, 3): 3,
    }
    for operation, expected in seconds.items():
        assert machine.seconds(Work({operation: 2.0})) == pytest.approx(2 * (expected + 0.5))
    assert Machine("it", 1.0, 1.0, 1.0, 1.0, 0, "here").seconds(Work({Operation("copy", 0, 3): 1.0})) == 0


def test_named_machines() -> None:
    """Figures of data sheets, with where they are from."""
    for machine in MACHINES.values():
        assert machine.fp64 < machine.fp32 < machine.half
        assert machine.source
        low, high = machine.efficiency
        assert 0 < low < high < 1
    assert find_machine("rtx4090").memory == 24 * 10**9
    with pytest.raises(QvggtError, match="rtx3090, rtx4090"):
        find_machine("gtx1080")


def test_the_middle_of_the_runs_counts() -> None:
    rates = {"fp64": [1.0], "fp32": [1.0, 9.0, 2.0], "bandwidth": [1.0], "attention": [1.0], "call": [1.0]}
    assert Rates(rates).machine.fp32 == 2.0
