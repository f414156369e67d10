"""The sequence of global batches is a function of the objective, and of nothing else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plumbline.training.order import BatchOrder

ORDERS = st.builds(
    BatchOrder,
    train=st.integers(1, 40).map(lambda n: tuple(range(n))),
    replay=st.integers(0, 12).map(lambda n: tuple(range(100, 100 + n))),
    replay_share=st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    batch=st.integers(1, 16),
    epochs=st.sampled_from([0.5, 1.0, 1.7, 3.0]),
    seed=st.integers(0, 5),
)


@given(ORDERS)
def test_an_epoch_sees_every_training_example_once(order: BatchOrder) -> None:
    seen = np.concatenate([order.global_batch(step) for step in range(order.steps)])
    assert len(seen) == order.examples
    first = seen[: order.epoch_size]
    if order.epochs >= 1:
        assert sorted(i for i in first if i < 100) == list(order.train)
        assert sum(i >= 100 for i in first) == order.replay_per_epoch


@given(ORDERS, st.randoms())
def test_a_batch_is_the_same_whatever_was_asked_before(order: BatchOrder, random: object) -> None:
    forward = [order.global_batch(step).tolist() for step in range(order.steps)]
    backward = [order.global_batch(step).tolist() for step in reversed(range(order.steps))]
    assert forward == backward[::-1]


def test_replay_is_the_share_that_the_objective_names() -> None:
    order = BatchOrder(tuple(range(300)), tuple(range(1000, 1500)), 0.25, 16, 1.0, 0)
    seen = np.concatenate([order.global_batch(step) for step in range(order.steps)])
    assert (seen >= 1000).mean() == 0.25


def test_max_steps_ends_the_run_early() -> None:
    assert BatchOrder(tuple(range(100)), (), 0.0, 10, 5.0, 0, max_steps=7).steps == 7
