"""Batches go through all examples, epoch after epoch, in an order of their own."""

import torch

from workbench.batches import BatchOrder


def taken(order, batches):
    return [index for _ in range(batches) for index in order.next()]


def test_every_epoch_holds_every_example_once():
    indices = taken(BatchOrder(10, 5, seed=0), 6)
    epochs = [indices[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_may_span_epochs_and_loses_no_example():
    indices = taken(BatchOrder(7, 3, seed=0), 7)
    assert [sorted(indices[start : start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3


def test_a_batch_larger_than_the_data_repeats_it():
    batch = BatchOrder(3, 7, seed=0).next()
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]
    assert len(batch) == 7


def test_the_order_comes_from_its_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = taken(BatchOrder(10, 4, seed=3), 9)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert taken(BatchOrder(10, 4, seed=3), 9) == first
    assert taken(BatchOrder(10, 4, seed=4), 9) != first
