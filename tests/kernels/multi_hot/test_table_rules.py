"""Updates of touched rows, by XLA and by the native kernels, against Adam and others in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import registry, touched_rows
from kernels.multi_hot.native import product as native
from kernels.multi_hot.registry import Problem, RowOptimizer
from kernels.multi_hot.table_rules import NUM_RATES, Rule, StepNumbers, Touched, update
from tests.kernels.multi_hot import reference
from tests.kernels.multi_hot.checks import needs_compiler

V, H, B, N = 97, 19, 6, 40
Step = Callable[..., list[tf.Tensor]]
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def one_step(rule: Rule, *, how: str) -> Step:
    """A compiled step: by `xla`, or by the native kernels, from `rows` or `from dy`."""

    @tf.function(jit_compile=True, autograph=False)
    def step(
        parts: Any, values: Any, splits: Any, dy: Any, number: Any, rate: Any, active: Any
    ) -> Any:
        product = registry.product("gather" if how == "xla" else "native")
        touched = product.touch(Problem(values, splits, V, tf.float32, unique=False))
        rows, _ = product.row_gradients(dy, touched)
        if rule.kind == "exact_adam":
            parts = native.catch_up(rule, parts, touched, step=number - 1, active=active)
        numbers = StepNumbers(rule.rate(rate, number), tf.constant(0.5), number, active)
        return product.update(rule, parts, touched, dy, rows if how == "rows" else None, numbers)

    return step


def draw(rng: np.random.Generator, step: int) -> Batch:
    """Draw values, splits and dy of a batch; most ids are rare, and some come only in early
    steps."""
    splits = np.sort(np.concatenate([[0], rng.integers(0, N, B - 1), [rng.integers(N)]]))
    ids = np.minimum(rng.geometric(0.05, N) - 1, V - 1) if step % 7 else rng.integers(0, V, N)
    return ids.astype(np.int32), splits.astype(np.int64), rng.normal(size=(B, H))


def begin(rule: Rule, rng: np.random.Generator) -> list[tf.Tensor]:
    slots = rule.slots(V, H).values()
    table = tf.constant(rng.normal(size=(V, H)), tf.float32)
    return [table, *(tf.fill(shape, tf.cast(value, dtype)) for shape, dtype, value in slots)]


def updated(rule: Rule, parts: list[np.ndarray], batch: Batch, step: int, rate: float) -> None:
    """Update the parts in float64; for `exact_adam`, by dense Adam's step on all rows."""
    values, splits, dy = batch
    g = 0.5 * reference.table_gradient(dy, values, splits, num_tokens=V)
    touched = np.zeros(V, bool)
    touched[values[: splits[-1]]] = True
    rows = slice(None) if rule.kind == "exact_adam" else touched
    g, w = g[rows], parts[0]
    if rule.kind == "sgd":
        w[rows] -= rate * g
    elif rule.kind == "adagrad":
        parts[1][rows] += (g**2).mean(axis=1)
        w[rows] -= rate * g / np.sqrt(parts[1][rows] + rule.epsilon)[:, None]
    else:
        m, v = parts[1], parts[2]
        m[rows] += (g - m[rows]) * (1 - rule.beta_1)
        v[rows] += (g**2 - v[rows]) * (1 - rule.beta_2)
        rate *= np.sqrt(1 - rule.beta_2**step) / (1 - rule.beta_1**step)
        w[rows] -= rate * m[rows] / (np.sqrt(v[rows]) + rule.epsilon)


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("sgd", "xla"),
        ("sgd", "from dy"),
        ("adagrad", "xla"),
        ("adagrad", "from dy"),
        ("lazy_adam", "xla"),
        ("lazy_adam", "from dy"),
        ("exact_adam", "rows"),
        ("exact_adam", "from dy"),
    ],
)
def test_steps(kind: RowOptimizer, how: str, rng: np.random.Generator) -> None:
    """Rows miss from none to a few hundred steps, at learning rates that change; a step that is not
    active changes nothing."""
    rule = Rule(kind)
    parts, step = begin(rule, rng), one_step(rule, how=how)
    wanted = [part.numpy().astype(np.float64) for part in parts]
    num_steps = 300 if kind == "exact_adam" else 12
    for number in range(1, num_steps + 1):
        batch, rate = draw(rng, number if number < 50 else 1), 0.01 + 0.005 * np.sin(number)
        operands = [*map(tf.constant, batch[:2]), tf.constant(batch[2], tf.float32)]
        more = [tf.constant(number, tf.int64), tf.constant(rate, tf.float32)]
        if number == 5:
            before = [part.numpy() for part in parts]
            parts = step(parts, *operands, *more, tf.constant(False))
            for old, part in zip(before, parts, strict=True):
                np.testing.assert_array_equal(part, old)
        parts = step(parts, *operands, *more, tf.constant(True))
        updated(rule, wanted, batch, number, rate)
    if kind == "exact_adam":
        parts = flushed(rule, parts, num_steps)
        np.testing.assert_allclose(parts[1], wanted[1], rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(parts[2], wanted[2], rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(parts[0], wanted[0], rtol=1e-5, atol=2e-5)


def flushed(rule: Rule, parts: list[tf.Tensor], number: int) -> list[tf.Tensor]:
    @tf.function(jit_compile=True, autograph=False)
    def flush(parts: Any, step: Any) -> Any:
        return native.catch_up(rule, parts, None, step=step, active=tf.constant(True))

    return flush(parts, tf.constant(number, tf.int64))


@needs_compiler
@pytest.mark.parametrize("kind", ["sgd", "adagrad", "lazy_adam"])
def test_a_table_of_16_bits(kind: RowOptimizer, rng: np.random.Generator) -> None:
    """XLA and the native kernels round alike; slots are those of a float32 table."""
    rule, batches = Rule(kind), [draw(rng, step) for step in range(1, 13)]
    whole = begin(rule, rng)

    def trained(parts: list[tf.Tensor], how: str) -> list[np.ndarray]:
        step = one_step(rule, how=how)
        for number, (values, splits, dy) in enumerate(batches, 1):
            parts = step(
                parts, tf.constant(values), tf.constant(splits), tf.constant(dy, tf.float32),
                tf.constant(number, tf.int64), tf.constant(0.01), tf.constant(True),
            )  # fmt: skip
        return [tf.cast(part, tf.float32).numpy() for part in parts]

    half = [tf.cast(whole[0], tf.bfloat16), *whole[1:]]
    by_xla, native_ = (trained(half, how) for how in ("xla", "from dy"))
    assert (by_xla[0] == native_[0]).mean() > 0.98  # but where sums in another order part them
    np.testing.assert_allclose(native_[0], by_xla[0], rtol=2**-7)
    exact = trained(whole, "from dy")
    np.testing.assert_allclose(native_[0], exact[0], rtol=0.1, atol=0.02)
    for own, expected in zip(native_[1:], exact[1:], strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-7)


@needs_compiler
@pytest.mark.parametrize("how", ["xla", "from dy"])
def test_small_steps_of_a_table_of_16_bits_count_on_average(how: str) -> None:
    step, table = one_step(Rule("sgd"), how=how), tf.ones([V, H], tf.bfloat16)
    values, splits = np.arange(B, dtype=np.int32), np.arange(B + 1, dtype=np.int64)
    for number in range(1, 501):  # of 1e-4 each, where bfloat16 has nothing between 1 and 0.996
        (table,) = step(
            [table], tf.constant(np.resize(values, N)), tf.constant(splits), tf.ones([B, H]),
            tf.constant(number, tf.int64), tf.constant(2e-4), tf.constant(True),
        )  # fmt: skip
    rows = tf.cast(table, tf.float32).numpy()
    assert (rows[B:] == 1).all()
    assert abs(rows[:B].mean() - 0.95) < 0.008  # 5 standard deviations


def test_not_a_number_stays_so_in_a_table_of_16_bits() -> None:
    """A GPU's own NaN, whose bits are all 1 except the sign's, stays one too."""
    nan = np.full([1, H], 0x7FFFFFFF, np.uint32).view(np.float32)
    touched = Touched(tf.constant([5]), tf.constant([1]), None)
    (table,) = tf.function(update, jit_compile=True)(
        Rule("sgd"), [tf.ones([V, H], tf.bfloat16)], touched, None, tf.constant(nan),
        StepNumbers(*map(tf.constant, (1.0, 1.0)), tf.constant(1, tf.int64), tf.constant(True)),
    )  # fmt: skip
    rows = tf.cast(table, tf.float32).numpy()
    assert np.isnan(rows[5]).all()
    assert (np.delete(rows, 5, axis=0) == 1).all()


@needs_compiler
@pytest.mark.parametrize(
    ("betas", "epsilon"), [((0.9, 0.999), 1e-7), ((0.99, 0.999), 0.1), ((0.5, 0.9), 0.1)]
)
def test_exact_adam_makes_up_for_any_number_of_steps(
    betas: tuple[float, float], epsilon: float, rng: np.random.Generator
) -> None:
    """The result is that of the float64 sum, for one step up to as many as there are rates for,
    over the end of their ring, for any betas and for gradients far below epsilon."""
    rule = Rule("exact_adam", *betas, epsilon)
    now = 6000
    missed = rng.integers(0, NUM_RATES, V)
    missed[:4] = [0, 1, 2, NUM_RATES]
    scale = 10.0 ** rng.integers(-9, 1, (V, H))  # of the gradients, in places far below epsilon
    w, m, v = rng.normal(size=(V, H)), scale * rng.normal(size=(V, H)), scale**2
    rates = rng.uniform(0.5e-3, 1.5e-3, now)  # of step i at i - 1
    ring = np.zeros(NUM_RATES)
    for step in range(now - NUM_RATES + 1, now + 1):
        ring[(step - 1) % NUM_RATES] = rates[step - 1]
    last = now - missed
    parts = [*(tf.constant(part, tf.float32) for part in (w, m, v)), tf.constant(last, tf.int64)]
    got = flushed(rule, [*parts, tf.constant(ring, tf.float32)], now)
    for row in range(V):
        steps = np.arange(1, missed[row] + 1)[:, None]
        moved = betas[0] ** steps.astype(float) * rates[last[row] : now, None]
        roots = np.sqrt(v[row]) * betas[1] ** (steps / 2)
        w[row] -= (moved * m[row] / (roots + epsilon)).sum(axis=0)
    np.testing.assert_allclose(got[0], w, rtol=1e-6, atol=5e-7)
    decays = [beta ** missed[:, None].astype(float) for beta in betas]
    np.testing.assert_allclose(got[1], m * decays[0], rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(got[2], v * decays[1], rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(got[3], np.full(V, now))


@needs_compiler
@pytest.mark.parametrize(("step", "num"), [(NUM_RATES - 1, 1), (NUM_RATES, V), (NUM_RATES + 1, 1)])
def test_no_row_misses_more_steps_than_there_are_rates(step: int, num: int) -> None:
    @tf.function(jit_compile=True, autograph=False)
    def caught_up(parts: Any, now: Any) -> Any:
        splits = tf.constant([0, 1], tf.int64)
        sets = Problem(tf.constant([5]), splits, V, tf.float32, unique=False)
        touched = registry.product("native").touch(sets)
        active = tf.constant(True)
        return native.catch_up(Rule("exact_adam"), parts, touched, step=now, active=active)

    ones = tf.ones([V, H])
    parts = [ones, ones, ones, tf.ones([V], tf.int64), tf.ones([NUM_RATES])]
    last = caught_up(parts, tf.constant(step, tf.int64))[3].numpy()
    assert (last == step).sum() == num


def test_touched_rows_of_a_batch_whose_length_is_unknown() -> None:
    vector = tf.TensorSpec([None], tf.int32)

    @tf.function(input_signature=[vector, vector], autograph=False)
    def touched(values: tf.Tensor, row_splits: tf.Tensor) -> Any:
        return touched_rows(values, row_splits, num_tokens=5, implementation="gather")[:2]

    ids, num = touched(tf.constant([3, 1, 3]), tf.constant([0, 1, 3]))
    assert (ids.numpy().tolist(), num.numpy().tolist()) == ([1, 3, -1, -1, -1], [2])
