"""Splits, label draws and pairs: against a plain SplitMix64 of Python integers, and their promises as properties."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import splits
from harness.datasets import ImageSet, Pixels
from harness.splits import Part

SIXTY_FOUR_BITS = (1 << 64) - 1
SEEDS = st.integers(0, 2**31)
COUNTS = st.integers(40, 250)
SHARES = st.none() | st.floats(0.5, 0.9)

quickly = settings(max_examples=20)


def _toy(count: int, classes: int = 3, test_from: int | None = None, first_label: int = 0) -> ImageSet:
    """A set whose image number i is one pixel of the value i, so that an image says which one it is."""
    labels = first_label + np.arange(count, dtype=np.int64) * 7919 % classes
    images = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)
    return ImageSet("toy", Pixels(images, labels, test_from), "")


def _unequal(*sizes: int) -> ImageSet:
    """A set with so many images of each class."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    return ImageSet("unequal", Pixels(images, labels), "")


def _numbers(part: Part) -> list[int]:
    """Which images of a toy set these are."""
    return [int(value) for value in part.images.flatten().tolist()]


def _splitmix64(offset: int, count: int) -> list[int]:
    """The stream of Steele, Lea and Flood (2014) from a state, in Python's own integers."""
    values = []
    for step in range(1, count + 1):
        mixed = (offset + step * 0x9E3779B97F4A7C15) & SIXTY_FOUR_BITS
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & SIXTY_FOUR_BITS
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & SIXTY_FOUR_BITS
        values.append(mixed ^ (mixed >> 31))
    return values


def _plain_order(count: int, purpose: str, seed: int) -> list[int]:
    """The hashed order by Python's own integers and sort."""
    offset = int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:8], "little")
    return sorted(range(count), key=_splitmix64(offset, count).__getitem__)


def test_the_plain_splitmix64_gives_the_published_numbers() -> None:
    """The reference of these tests is itself right: the first outputs from the state 1234567, as widely published."""
    assert _splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("purpose", "seed", "order"),
    [("test", 0, [7, 1, 3, 9, 6, 0, 5, 4, 8, 2]), ("labels 3", 7, [5, 4, 0, 2, 9, 3, 8, 7, 6, 1])],
)
def test_the_hashed_order_never_changes(purpose: str, seed: int, order: list[int]) -> None:
    """Published numbers depend on it, so it is pinned to what plain integers give."""
    assert splits.hashed_order(10, purpose, seed).tolist() == order
    assert _plain_order(10, purpose, seed) == order


@quickly
@given(st.integers(0, 100), st.text(max_size=12), SEEDS)
def test_the_hashed_order_is_splitmix64_sorted(count: int, purpose: str, seed: int) -> None:
    """A permutation of 0..count-1, in the order of the plain hash."""
    order = splits.hashed_order(count, purpose, seed).tolist()
    assert sorted(order) == list(range(count))
    assert order == _plain_order(count, purpose, seed)


def test_purposes_and_seeds_give_different_orders() -> None:
    """Neither the purpose nor the seed is forgotten."""
    orders = [splits.hashed_order(50, purpose, seed).tolist() for purpose in ("test", "validation", "pairs") for seed in (0, 1)]
    assert len({tuple(order) for order in orders}) == 6


def test_every_place_is_as_likely_for_every_image() -> None:
    """Over 400 seeds each of 5 images comes first about 80 times: chi-squared with 4 degrees of freedom below 18.5."""
    firsts = Counter(int(splits.hashed_order(5, "uniform", seed)[0]) for seed in range(400))
    assert sum((firsts[image] - 80) ** 2 / 80 for image in range(5)) < 18.5  # exceeded once in a thousand


@quickly
@given(COUNTS, SEEDS, SHARES)
def test_the_three_splits_share_no_image_and_leave_none_out(count: int, seed: int, share: float | None) -> None:
    """Pool, validation and test are a partition of the set, with or without a test split of its own."""
    test_from = None if share is None else round(share * count)
    indices = splits.split_indices(_toy(count, test_from=test_from), seed)
    everything = np.concatenate([indices.pool, indices.validation, indices.test])
    assert sorted(everything.tolist()) == list(range(count))
    assert min(len(indices.pool), len(indices.validation), len(indices.test)) > 0
    if test_from is not None:
        assert sorted(indices.test.tolist()) == list(range(test_from, count))


def test_a_fifth_is_for_testing_and_a_tenth_of_the_rest_for_choosing() -> None:
    """By hand: of 200 images 40 for the test, 16 of the other 160 for validation, 144 to train."""
    parts = splits.make_splits(_toy(200), 0, None)
    assert [len(part.labels) for part in (parts.train, parts.validation, parts.test)] == [144, 16, 40]


def test_large_sets_are_not_evaluated_on_all_their_images() -> None:
    """At most 10,000 images for the test and 1,000 for validation; images of the own test split never train."""
    indices = splits.split_indices(_toy(42_000, test_from=30_000), 0)
    assert [len(indices.pool), len(indices.validation), len(indices.test)] == [29_000, 1_000, 10_000]
    assert indices.test.min() >= 30_000
    assert max(indices.pool.max(), indices.validation.max()) < 30_000


def test_the_split_is_a_function_of_dataset_and_split_seed() -> None:
    """The same again for the same seed, another one for another seed, and the global random states are not used."""
    np.random.seed(0)  # it is the legacy global state that must not matter
    torch.manual_seed(0)
    first = splits.make_splits(_toy(100), 4, 30)
    np.random.seed(1)
    torch.manual_seed(1)
    again, other = splits.make_splits(_toy(100), 4, 30), splits.make_splits(_toy(100), 5, 30)
    for name in ("train", "validation", "test"):
        assert _numbers(getattr(first, name)) == _numbers(getattr(again, name))
        assert _numbers(getattr(first, name)) != _numbers(getattr(other, name))


@quickly
@given(SEEDS, st.integers(16, 100), st.integers(16, 100))
def test_a_larger_training_set_contains_the_smaller(seed: int, one: int, another: int) -> None:
    """The training size chooses how many of one order, and leaves validation and test as they are."""
    data = _toy(150)
    small, large = (splits.make_splits(data, seed, size) for size in sorted((one, another)))
    assert len(small.train.labels) == min(one, another)
    assert _numbers(large.train)[: len(small.train.labels)] == _numbers(small.train)
    assert _numbers(small.validation) == _numbers(large.validation)
    assert _numbers(small.test) == _numbers(large.test)


def test_asking_for_more_training_images_than_there_are_gives_all() -> None:
    """A training size beyond the pool is the whole pool, as ``None`` is."""
    assert _numbers(splits.make_splits(_toy(60), 0, 5000).train) == _numbers(splits.make_splits(_toy(60), 0, None).train)


def test_bytes_become_shares_of_255_and_keep_their_labels() -> None:
    """A uint8 image is divided by 255, a float image is left as it is; each image stays with its own label."""
    count = 60
    images = np.broadcast_to(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), (count, 3, 2, 2))
    labels = np.arange(count, dtype=np.int64) % 4
    test = splits.make_splits(ImageSet("bytes", Pixels(images, labels), ""), 0, None).test
    assert (test.images.dtype, test.labels.dtype, test.images.shape[1:]) == (torch.float32, torch.int64, (3, 2, 2))
    numbers = (test.images[:, 0, 0, 0] * 255).round().long()
    np.testing.assert_allclose(test.images[:, 2, 1, 1].numpy(), numbers.numpy() / 255, rtol=1e-6)
    assert torch.equal(test.labels, numbers % 4)
    floats = splits.make_splits(_toy(count, classes=4), 0, None).test
    assert floats.images.flatten().tolist() == [float(number) for number in numbers]


@quickly
@given(SEEDS, st.integers(2, 5), st.integers(1, 40))
def test_labels_are_drawn_from_the_pool_and_stratified(seed: int, classes: int, labels: int) -> None:
    """Different images from neither validation nor test, their counts by class at most one apart, one a class at least."""
    data = _toy(300, classes)
    held_out = splits.make_splits(data, seed, None)
    forbidden = {*_numbers(held_out.validation), *_numbers(held_out.test)}
    for draw in splits.label_draws(data, seed, labels, 2):
        numbers = _numbers(draw)
        assert len(set(numbers)) == len(numbers) == max(labels, classes)
        assert forbidden.isdisjoint(numbers)
        assert draw.labels.tolist() == data.pixels.labels[numbers].tolist()
        counts = Counter(draw.labels.tolist())
        assert len(counts) == classes
        assert max(counts.values()) - min(counts.values()) <= 1


@quickly
@given(SEEDS, st.integers(1, 60), st.integers(1, 60), st.integers(1, 3))
def test_a_draw_of_fewer_labels_is_part_of_the_same_draw_of_more(seed: int, one: int, another: int, extra_draws: int) -> None:
    """Nested in the number of labels, and the same whatever the number of draws."""
    data = _unequal(60, 25, 4)
    few = splits.label_draws(data, seed, min(one, another), 2)
    many = splits.label_draws(data, seed, max(one, another), 2 + extra_draws)
    for small, large in zip(few, many, strict=False):
        assert set(_numbers(small)) <= set(_numbers(large))


def test_a_draw_may_use_images_that_a_small_training_set_leaves_out() -> None:
    """The labels come from the whole pool: of 16 training images alone 120 labels could not be drawn."""
    data = _toy(300)
    (draw,) = splits.label_draws(data, 0, 120, 1)
    assert len(draw.labels) == 120
    assert not set(_numbers(draw)) <= set(_numbers(splits.make_splits(data, 0, 16).train))
    assert set(_numbers(draw)) <= set(_numbers(splits.make_splits(data, 0, None).train))


def test_draws_differ_from_one_another() -> None:
    """Five draws choose five different sets, also of one label a class."""
    draws = [frozenset(_numbers(draw)) for draw in splits.label_draws(_toy(300, 3), 0, 3, 5)]
    assert len(set(draws)) == 5


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_one_label_a_class_is_the_least(labels: int) -> None:
    """With as many labels as classes, or fewer, each class has exactly one."""
    for draw in splits.label_draws(_toy(200, 3), 0, labels, 3):
        assert sorted(draw.labels.tolist()) == [0, 1, 2]


def test_a_class_that_runs_out_gives_all_it_has() -> None:
    """The draw is smaller by what is missing, and the other classes have their equal share."""
    data = _unequal(80, 80, 6)
    pool = Counter(data.pixels.labels[splits.split_indices(data, 0).pool].tolist())
    assert 0 < pool[2] < 10
    (draw,) = splits.label_draws(data, 0, 30, 1)
    assert Counter(draw.labels.tolist()) == {0: 10, 1: 10, 2: pool[2]}


def test_more_labels_than_images_are_the_whole_pool() -> None:
    """No image is drawn twice."""
    data = _unequal(30, 20)
    (draw,) = splits.label_draws(data, 0, 1000, 1)
    assert sorted(_numbers(draw)) == sorted(splits.split_indices(data, 0).pool.tolist())


@quickly
@given(st.lists(st.integers(0, 3), max_size=60), SEEDS, st.integers(0, 20))
def test_pairs_join_different_classes_while_they_can_and_share_no_image(labels: list[int], seed: int, count: int) -> None:
    """As many as asked for or as there are images; of one class only where no other class was left."""
    pairs = splits.interpolation_pairs(torch.tensor(labels, dtype=torch.int64), seed, count)
    used = [index for pair in pairs for index in pair]
    assert len(set(used)) == len(used)
    assert len(pairs) == min(count, len(labels) // 2)
    for number, (first, second) in enumerate(pairs):
        left = set(range(len(labels))) - set(used[: 2 * number + 1])
        assert labels[first] != labels[second] or {labels[index] for index in left} == {labels[first]}


def test_pairs_are_fixed_by_the_split_seed() -> None:
    """The first pairs are the same whatever the number, and another seed has others."""
    labels = torch.arange(90) % 4
    assert splits.interpolation_pairs(labels, 0, 20)[:6] == splits.interpolation_pairs(labels, 0, 6)
    assert splits.interpolation_pairs(labels, 0, 6) != splits.interpolation_pairs(labels, 1, 6)


@pytest.mark.parametrize("labels", [[], [1], [2, 2, 2]])
def test_one_class_is_paired_with_itself(labels: list[int]) -> None:
    """Where no two classes are left, two images of one class make a pair; a single image makes none."""
    pairs = splits.interpolation_pairs(torch.tensor(labels, dtype=torch.int64), 0, 5)
    assert len(pairs) == len(labels) // 2
    assert all(first != second for first, second in pairs)


@quickly
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), SEEDS, st.integers(1, 50))
def test_the_images_shown_take_the_classes_in_turn(labels: list[int], seed: int, count: int) -> None:
    """Different images, as many as asked for or all; a class is shown twice only after every other one that can be."""
    shown = splits.shown_indices(torch.tensor(labels), seed, count)
    assert len(set(shown)) == len(shown) == min(count, len(labels))
    counts, available = Counter(labels[index] for index in shown), Counter(labels)
    for label, number in available.items():
        assert counts[label] >= min(number, max(counts.values()) - 1)
