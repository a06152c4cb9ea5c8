"""The trainer, as a user drives it: fit, fit again, resume, evaluate, predict, save, export."""

import copy
import dataclasses
import inspect
import json
import pickle
import pydoc
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

import harness
from harness.base.errors import InputError
from harness.data.vocabulary import Vocabulary
from harness.task.measures import Quality

TOKENS, TAGS = 200, 30


def ragged(rng: np.random.Generator, rows: int, tokens: int, name: str) -> harness.RaggedSets:
    splits = np.concatenate([[0], np.cumsum(rng.integers(0, 20, rows))])
    values = rng.integers(0, tokens, splits[-1])
    return harness.RaggedSets(
        values=values, row_splits=splits, num_tokens=tokens, name=name
    ).unique()


def single(rows: int = 300, name: str = "single") -> harness.RaggedSets:
    """Draws rows whose class depends on their ids, by default so many that no last batch, which has
    a program of its own, is smaller."""
    rng = np.random.default_rng()
    sets = ragged(rng, rows, TOKENS, name)
    labels = [int(np.sin(sets.row(i)).sum() > 0) for i in range(rows)]
    return harness.RaggedSets(
        values=sets.values,
        row_splits=sets.row_splits,
        labels=np.array(labels),
        num_tokens=TOKENS,
        name=name,
    ).unique()


def several(rows: int = 300, *, ragged_labels: bool = False) -> harness.Examples:
    """Draws rows with two ragged inputs and a dense one, and with any of three labels."""
    rng = np.random.default_rng()
    words, tags = ragged(rng, rows, TOKENS, "words"), ragged(rng, rows, TAGS, "tags")
    numbers = rng.normal(size=[rows, 4])
    shown = np.stack([words.lengths > 9, tags.lengths > 9, numbers[:, 0] > 0], axis=1)
    labels: Any = shown.astype(np.uint8)
    if ragged_labels:
        row, which = np.nonzero(shown)
        splits = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])
        labels = harness.RaggedSets(values=which, row_splits=splits, num_tokens=3, name="labels")
    inputs = {"words": words, "tags": tags, "numbers": numbers}
    return harness.Examples(inputs=inputs, labels=labels, name="several")


def small(inputs: Any) -> Any:
    x = harness.MultiHotDense(8, TOKENS, activation="gelu")(inputs)
    return keras.layers.Dense(1)(keras.layers.Dropout(0.2)(x))


def wide(inputs: Any) -> Any:
    words = harness.MultiHotDense(8, TOKENS, activation="gelu", name="words_table")(inputs["words"])
    tags = harness.MultiHotDense(8, TAGS, activation="gelu", name="tags_table")(inputs["tags"])
    numbers = keras.layers.Dense(8, activation="tanh")(inputs["numbers"])
    x = keras.layers.Dropout(0.2)(keras.layers.Concatenate()([words, tags, numbers]))
    return keras.layers.Dense(3)(keras.layers.BatchNormalization()(x))


def trainer(model: Any = small, **settings: Any) -> harness.Trainer:
    return harness.Trainer(model, **{"batch_size": 50, "implementation": "gather", **settings})


def test_fit_returns_what_keras_returns_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train, test = single(), single(100)
    own = trainer(optimizer=keras.optimizers.Adam(1e-2))
    history = own.fit(train, validation=test, epochs=3)
    assert isinstance(history, keras.callbacks.History)
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 3 for values in history.history.values())
    drawn = [line.get_ydata() for axes in history.plot().axes for line in axes.lines]
    names = ("loss", "val_loss", "accuracy", "val_accuracy")
    assert sorted(map(list, drawn)) == sorted(history.history[name] for name in names)
    assert history.history["loss"][-1] < history.history["loss"][0]
    found = own.evaluate(test)
    assert found["loss"] == pytest.approx(history.history["val_loss"][-1], rel=1e-6)
    assert found["accuracy"] == history.history["val_accuracy"][-1]
    outputs = own.predict(test)
    assert outputs.shape == (100, 1)
    assert np.mean((outputs[:, 0] > 0) == test.labels) == pytest.approx(found["accuracy"])
    assert list(tmp_path.iterdir()) == []
    assert "epoch 3/3" in capsys.readouterr().out


class CountingTraces(keras.layers.Layer):
    """Counts the programs that call it."""

    count = 0

    def call(self, inputs: Any) -> Any:
        CountingTraces.count += 1
        return inputs


class Centred(CountingTraces):
    """Compares every row with the others of its batch."""

    def call(self, inputs: Any) -> Any:
        outputs = super().call(inputs)
        return outputs - keras.ops.mean(outputs, axis=0)


@pytest.mark.parametrize("layer", [CountingTraces, Centred])
def test_predictions_of_all_sizes_share_a_few_programs(layer: Any) -> None:
    """A server predicts the rows of each request; batches are filled by rows that nobody sees. If
    a row's answer depends on the others, it is that of its own batch, as in Keras."""
    rows = single()
    own = trainer(lambda inputs: layer()(small(inputs)))
    expected, top = own.predict(rows), own.recommend(rows, k=1).scores
    CountingTraces.count = 0
    sizes = [1, 2, *np.random.default_rng().permutation(np.arange(3, 120))]
    for size in sizes[: 40 if layer is CountingTraces else 5]:
        part = rows.take(taken := np.arange(size))
        found = own.predict(part)
        if layer is Centred:
            for begin in range(0, size, 50):
                assert np.abs(found[begin : begin + 50].mean()) < 1e-5
        else:
            np.testing.assert_allclose(found, expected[taken], rtol=1e-5, atol=1e-6)
            best = own.recommend(part, k=1).scores
            np.testing.assert_allclose(best, top[taken], rtol=1e-5, atol=1e-6)
    assert CountingTraces.count <= 40


def test_fit_again_goes_on() -> None:
    """The second fit goes on even if another trainer has trained in between."""
    train = single()
    once, twice = trainer(seed=3), trainer(seed=3)
    first = twice.fit(train, epochs=1, verbose=False).history["loss"]
    together = once.fit(train, epochs=4, verbose=False).history["loss"]
    then = twice.fit(train, epochs=3, verbose=False).history["loss"]
    assert first + then == together
    assert once.step == twice.step == 24


class Positives(keras.metrics.Metric):
    """Like the example in Keras's documentation of metrics, whose result is a variable."""

    def __init__(self) -> None:
        super().__init__(name="positives")
        self.positives = self.add_variable((), initializer="zeros", name="positives")

    def update_state(self, labels: Any, outputs: Any, sample_weight: Any = None) -> None:
        self.positives.assign_add(keras.ops.sum(keras.ops.cast(labels, "float32")))

    def result(self) -> keras.Variable:
        return self.positives


def test_a_metrics_result_may_be_a_variable() -> None:
    own, rows = trainer(task=harness.Task(metrics=[Positives()])), single()
    history = own.fit(rows, epochs=2, verbose=False).history
    assert rows.labels is not None
    assert history["positives"] == [rows.labels.sum()] * 2


def test_a_copy_goes_on_as_the_original() -> None:
    """The copy keeps what was set on the optimizer after it was made, and like the original drops
    ids that rows repeat."""
    train, test = single(), single(50)
    again = np.repeat(test.values, 2)
    test = harness.RaggedSets(
        values=again, row_splits=2 * test.row_splits, labels=test.labels, num_tokens=TOKENS
    )
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    task = harness.Task(metrics=["accuracy", keras.metrics.AUC(name="auc")])
    own = trainer(optimizer=optimizer, task=task)
    own.fit(train, epochs=2, verbose=False)
    copies = [pickle.loads(pickle.dumps(own)), copy.deepcopy(own)]
    outputs, found = own.predict(test), own.evaluate(test)
    for other in copies:
        np.testing.assert_array_equal(other.predict(test), outputs)
        assert other.evaluate(test) == found
    copies[1] = pickle.loads(pickle.dumps(copies[1]))  # of one that has evaluated alone
    changed = copy.deepcopy(copies[1])
    changed.model.set_weights([0.5 * value for value in own.model.get_weights()])
    for value, same in zip(
        copy.deepcopy(changed).model.get_weights(), own.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(value, 0.5 * same)
    wanted = own.fit(train, epochs=2, verbose=False).history
    np.testing.assert_array_equal(copies[0].predict(test), outputs)
    for other in copies:
        assert other.fit(train, epochs=2, verbose=False).history == wanted
        assert other.step == own.step == 24
        for value, same in zip(other.model.get_weights(), own.model.get_weights(), strict=True):
            np.testing.assert_array_equal(value, same)


@keras.saving.register_keras_serializable()
class Unbuilt(keras.Model):  # type: ignore[misc]
    """A model that makes layers without names, and lets Keras build them by a call."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = harness.MultiHotDense(8, TOKENS)
        self.drop = keras.layers.Dropout(0.2)
        self.head = keras.layers.Dense(1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(self.drop(self.table(inputs), training=training))


@keras.saving.register_keras_serializable()
class Built(Unbuilt):
    """A model that can be built without a call."""

    def build(self, shapes: Any) -> None:
        self.table.build(shapes)
        self.head.build((None, 8))
        self.built = True


@pytest.mark.filterwarnings("ignore:Model .* cannot be built automatically")
def test_a_copy_of_a_subclass_has_its_weights_or_is_refused() -> None:
    train = single()
    own = trainer(Built(), optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    own.fit(train, verbose=False)
    other = pickle.loads(pickle.dumps(own))
    wanted = own.fit(train, epochs=2, verbose=False).history
    assert other.fit(train, epochs=2, verbose=False).history == wanted
    refused = trainer(Unbuilt())
    refused.predict(train)
    with pytest.raises(InputError, match="give the class Unbuilt a method build"):
        pickle.loads(pickle.dumps(refused))


def test_a_layer_that_changes_what_it_does_not_have_is_refused() -> None:
    count, seed = keras.Variable(0.0, name="count"), keras.random.SeedGenerator(1)
    raw = tf.Variable(0.0)

    def counted(x: Any) -> Any:
        count.assign_add(1.0)
        return x * count

    for change, message in (
        (lambda x: x + keras.random.normal((1,)), r"no seed of its own.*keras\.random\.SeedGen"),
        (lambda x: x + keras.random.normal((1,), seed=seed), "no seed of its own"),
        (counted, "assigns count, which is none of its variables.*add_weight"),
        (lambda x: x * raw.assign_add(1.0), "assigns a tf.Variable.*AssignAdd.*add_weight"),
    ):
        changed = keras.layers.Lambda(change)
        own = trainer(lambda inputs, layer=changed: layer(harness.MultiHotDense(1, TOKENS)(inputs)))
        with pytest.raises(InputError, match=message):
            own.fit(single(), verbose=False)


def test_resumed_saved_and_loaded(tmp_path: Path) -> None:
    """The model has dropout, BatchNormalization, several inputs, and several labels a row."""
    train = several(ragged_labels=True)
    begun, resumed = (trainer(wide, seed=5, input="resident") for _ in range(2))
    begun.fit(train, validation=train, epochs=2, run_dir=tmp_path / "run", verbose=False)
    # Goes on as if it had never stopped: `test_fit_again_goes_on`.
    wanted = begun.fit(train, validation=train, verbose=False).history
    rest = resumed.fit(
        train, validation=train, epochs=3, run_dir=tmp_path / "run", resume=True, verbose=False
    )
    assert rest.epoch == [2]
    assert rest.history == wanted
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["validation_loss"] == wanted["val_loss"][-1]
    outputs = resumed.predict(train)
    resumed.save(tmp_path / "mine.keras")
    saved, of_run = (
        harness.load_model(tmp_path / name) for name in ("mine.keras", "run/model.keras")
    )
    again = harness.Trainer(saved, batch_size=50).predict(train)
    np.testing.assert_allclose(again, outputs, rtol=1e-4, atol=1e-5)
    for pair in zip(saved.get_weights(), of_run.get_weights(), strict=True):
        np.testing.assert_array_equal(*pair)


def test_rows_kept_for_the_end(tmp_path: Path) -> None:
    train, validation, test = single(), single(100), single(50)
    own = trainer()
    own.fit(train, validation=validation, test=test, run_dir=tmp_path / "run", verbose=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_loss"] == own.evaluate(test)["loss"]
    assert own.last is not None
    assert own.last.quality is not None
    assert own.last.quality.num_rows == 50
    assert summary["test_f1_macro"] == own.measure(test).figures()["f1_macro"]
    assert summary["dataset"]["test_rows"] == 50
    assert summary["validation_loss"] == own.evaluate(validation)["loss"]
    assert summary["dataset"]["validation_rows"] == 100
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (found,) = [json.loads(x)["validation_loss"] for x in lines if "validation_loss" in x]
    assert found == own.evaluate(validation)["loss"]


@pytest.mark.parametrize("kind", ["multi_class", "multi_label"])
def test_measures_come_from_the_evaluation_itself(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The measures are the same after a fit, by `measure`, and from the predictions. The last batch
    has padding, and one kind trains on two devices."""
    if kind == "multi_label":
        train, test = several(), several(75)
        own = trainer(wide)
    else:
        train, test = harness.Examples.of(single()), harness.Examples.of(single(75))
        head = keras.layers.Dense(3)
        own = trainer(lambda inputs: head(harness.MultiHotDense(8, TOKENS)(inputs)), replicas=2)
        train, test = (
            dataclasses.replace(rows, labels=3 * rows.labels // 2, num_classes=3)
            for rows in (train, test)
        )
    own.fit(train, validation=test, epochs=2, run_dir=tmp_path, tensorboard="off")
    assert own.last is not None
    quality = own.last.quality
    assert quality is not None
    assert quality.figures() == own.measure(test).figures()
    outputs = own.predict(test)
    sizes = {"kind": kind, "num_classes": max(2, outputs.shape[1])}
    probabilities = keras.activations.get("softmax" if kind == "multi_class" else "sigmoid")
    again = Quality(test, **sizes)
    again.add(np.asarray(probabilities(outputs)))
    assert again.figures() == pytest.approx(quality.figures())
    np.testing.assert_array_equal(again.support, quality.support)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["validation_accuracy"] == pytest.approx(quality.accuracy)
    for name, value in quality.figures().items():
        assert summary[f"validation_{name}"] == value
    assert not any(key.startswith("test_") for key in summary)
    is_trivial = quality.hint([""] * len(quality.support)) is not None
    assert ("no better than predicting" in capsys.readouterr().out) == is_trivial


def test_labels_between_classes_are_not_measured() -> None:
    rows = harness.Examples.of(single(50))
    soft = dataclasses.replace(rows, labels=np.full(50, 0.25))
    own = trainer()
    assert own.evaluate_and_measure(soft)[1] is None
    with pytest.raises(InputError, match="no classes to measure"):
        own.measure(soft)
    ones = dataclasses.replace(rows, labels=np.ones(50, int), num_classes=2)
    assert "roc_auc" not in own.measure(ones).figures()


def test_concatenated_probabilities_are_those_of_keras() -> None:
    train = several()
    words = train.ragged["words"]

    def end(x: Any) -> Any:
        return keras.layers.Concatenate()(
            [keras.layers.Dense(1, activation="sigmoid")(x) for _ in range(3)]
        )

    def concatenated(inputs: Any) -> Any:
        return end(harness.MultiHotDense(8, TOKENS)(inputs["words"]))

    inputs = keras.Input([TOKENS])
    theirs = keras.Model(inputs, end(keras.layers.Dense(8)(inputs)))
    metrics = [keras.metrics.BinaryAccuracy(name="right")]
    theirs.compile(
        keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=metrics, jit_compile=False
    )
    examples = harness.Examples(inputs={"words": words}, labels=train.labels)
    options: dict[str, Any] = {"batch_size": 50, "implementation": "gather"}
    with pytest.raises(InputError, match=r"ends in ConcatV2.*BinaryCrossentropy\(from_logits"):
        harness.Trainer(concatenated, **options).fit(examples, verbose=False)
    task = harness.Task(
        loss="binary_crossentropy", metrics=["accuracy", keras.metrics.BinaryAccuracy(name="right")]
    )
    own = harness.Trainer(concatenated, task=task, optimizer=keras.optimizers.SGD(0.5), **options)
    own.predict(examples)
    theirs.set_weights(own.model.get_weights())
    own.fit(examples, shuffle=False, verbose=False)
    hot = np.stack([np.bincount(words.row(i), minlength=TOKENS) for i in range(words.num_rows)])
    labels = np.asarray(train.labels, np.float32)
    theirs.fit(hot, labels, batch_size=50, shuffle=False, verbose=0)
    figures = theirs.evaluate(hot, labels, batch_size=50, verbose=0, return_dict=True)
    assert own.evaluate(examples) == pytest.approx(
        figures | {"accuracy": figures["right"]}, rel=1e-5
    )
    np.testing.assert_allclose(own.predict(examples), theirs.predict(hot, verbose=0), rtol=1e-5)
    measured = own.measure(examples).figures()
    above = (own.predict(examples) > 0.5) & (labels == 1)
    share = 2 * above.sum() / ((own.predict(examples) > 0.5).sum() + labels.sum())
    assert measured["f1_micro"] == pytest.approx(share)


def test_metrics_of_logits_are_those_of_keras() -> None:
    rows, kinds = single(), keras.metrics
    inputs = keras.Input([TOKENS])
    theirs = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)

    def metrics() -> list[keras.metrics.Metric]:
        zero = kinds.BinaryAccuracy(threshold=0.0, name="right")
        return [zero, kinds.AUC(from_logits=True, name="auc"), kinds.Precision(0, name="p")]

    task = harness.Task(loss=loss, metrics=metrics())
    own = harness.Trainer(
        lambda ids: harness.MultiHotDense(1, TOKENS)(ids),
        task=task,
        batch_size=50,
        implementation="gather",
    )
    found = own.evaluate(rows)
    theirs.set_weights(own.model.get_weights())
    theirs.compile("sgd", loss, metrics=metrics(), jit_compile=False)
    hot = np.stack([np.bincount(rows.row(i), minlength=TOKENS) for i in range(rows.num_rows)])
    labels = np.asarray(rows.labels, np.float32)[:, None]
    figures = theirs.evaluate(hot, labels, batch_size=50, verbose=0, return_dict=True)
    assert found == pytest.approx(figures, rel=1e-5)


def test_help_and_reprs_fit_a_notebook() -> None:
    shown = pydoc.plain(pydoc.render_doc(harness.Trainer))
    for field in dataclasses.fields(harness.Settings):
        assert f"{field.name}: " in shown
        assert f"= {field.default!r}\n" in shown.replace('"', "'")
    assert "Rows per optimizer step, over all replicas." in shown
    signature = inspect.signature(harness.Trainer.fit)
    assert signature.parameters["telemetry_hz"].default == harness.RunOptions().telemetry_hz
    assert dir(harness) == sorted(harness.__all__)

    rows = single()
    trainer = harness.Trainer(small, batch_size=30, implementation="gather")
    trainer.fit(rows, test=rows, verbose=False)
    examples = harness.Examples.of(rows)
    things = [trainer, rows, examples, trainer.last, trainer.measure(rows)]
    things.append(harness.Dataset(train=rows, test=rows, name="own"))
    for thing in things:
        assert len(repr(thing)) < 250, repr(thing)
        assert "\n" not in repr(thing)


def test_the_policy_that_keras_is_set_to_is_that_of_the_layers(tmp_path: Path) -> None:
    """The policy also holds when the run is resumed; a precision asked for by name comes first."""
    rows, policy = single(), "mixed_bfloat16"

    def fitted(**settings: Any) -> harness.Trainer:
        trainer = harness.Trainer(small, batch_size=30, implementation="gather", **settings)
        trainer.fit(
            rows, epochs=2 if settings else 1, run_dir=tmp_path, resume="auto",
            verbose=False, precision_watch=0,
        )  # fmt: skip
        return trainer

    keras.config.set_dtype_policy(policy)
    try:
        trainer = fitted()
        assert trainer.model.layers[-1].dtype_policy.name == policy
        assert trainer.last is not None
        why = trainer.last.start.choices["precision"].why
        assert why == "as keras.config.set_dtype_policy says"
        resumed = fitted(seed=0)
        assert (resumed.step, resumed.model.layers[-1].dtype_policy.name) == (20, policy)
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_snapshot_takes_the_trainer_back() -> None:
    """The second fit is the first again, without another compilation."""
    train, own = single(), trainer()
    restore = own.snapshot(train)
    first = own.fit(train, epochs=2, verbose=False).history["loss"]
    restore()
    assert own.fit(train, epochs=2, verbose=False).history["loss"] == first
    assert own.last is not None
    assert own.last.progress is not None
    assert own.last.progress.compilations == []


def tagged(rows: int) -> harness.Examples:
    """Draws rows with any of three labels, all of them rare."""
    rng = np.random.default_rng()
    sets = ragged(rng, rows, TOKENS, "tagged")
    return harness.Examples(
        inputs={"": sets},
        labels=(rng.random([rows, 3]) < 0.2).astype(np.uint8),
        class_names=("a", "b", "c"),
        name="tagged",
    )


def tagging(inputs: Any) -> Any:
    return keras.layers.Dense(3)(harness.MultiHotDense(8, TOKENS)(inputs))


def test_thresholds_that_a_fit_chose_are_those_of_copies_and_exports(tmp_path: Path) -> None:
    train, validation, test = tagged(200), tagged(50), tagged(50)
    words = Vocabulary(
        ids={f"w{number}": number for number in range(TOKENS)},
        num_tokens=TOKENS,
        class_names=("a", "b", "c"),
    )
    held_out: Any = {"validation": validation, "test": test}
    kept: Any = {"vocabulary": words, "run_dir": tmp_path / "run"}
    own = trainer(tagging, precision="float32")
    own.fit(train, **held_out, **kept, verbose=False)
    chosen = Vocabulary.load(tmp_path / "run" / "vocabulary.json").thresholds
    assert chosen is not None
    found, quality = own.evaluate(test), own.measure(test)
    np.testing.assert_array_equal(quality.thresholds, np.float32(chosen))
    copies = [copy.deepcopy(own)]
    copies.append(copy.deepcopy(copies[0]))
    copies[0].evaluate(test)
    copies[0].snapshot(train)  # builds what evaluations lack
    resumed = trainer(tagging, precision="float32")
    resumed.fit(train, **held_out, **kept, resume=True, verbose=False)
    copies.append(resumed)
    for other in copies:
        assert other.evaluate(test) == found
        assert other.measure(test).f1.tolist() == quality.f1.tolist()

    served, file = tmp_path / "served", tmp_path / "model.onnx"
    own.export(served)
    assert Vocabulary.load(served / "assets.extra" / "vocabulary.json").thresholds == chosen
    answers = tf.saved_model.load(served).signatures["serve_text"](tf.constant(["w1 w2"]))
    np.testing.assert_array_equal(answers["thresholds"], np.float32([chosen]))
    copies[1].export(file, format="onnx")
    about = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert json.loads(about["thresholds"]) == chosen


def test_thresholds_of_too_many_probabilities_are_not_chosen_which_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    num_classes, rng = 5_001, np.random.default_rng()

    def drawn(rows: int) -> harness.Examples:
        labels = ragged(rng, rows, num_classes, "labels")
        return harness.Examples(inputs={"": ragged(rng, rows, TOKENS, "many")}, labels=labels)

    def network(inputs: Any) -> Any:
        return keras.layers.Dense(num_classes)(harness.MultiHotDense(2, TOKENS)(inputs))

    own = trainer(network, precision="float32")
    own.fit(drawn(100), validation=drawn(2_000), test=drawn(20), epochs=1)
    shown = capsys.readouterr().out
    assert "no thresholds are chosen, so 0.5 holds: that takes 10,000,000 finite" in shown
    assert "2,000 validation rows of 5,001 classes have 10,002,000" in shown


def test_thresholds_that_a_fit_chose_end_with_it(tmp_path: Path) -> None:
    train, validation, test = tagged(200), tagged(50), tagged(50)
    words = Vocabulary(ids={}, num_tokens=TOKENS, class_names=("a", "b", "c"))
    own = trainer(tagging)
    restore = own.snapshot(train)

    def choose() -> None:
        held_out: Any = {"validation": validation, "test": test}
        own.fit(train, **held_out, vocabulary=words, verbose=False)
        assert own.measure(test).thresholds.tolist() != [0.5] * 3

    def is_undone() -> bool:
        return own.measure(test).thresholds.tolist() == 0.5

    choose()
    own.fit(train, validation=validation, verbose=False)
    assert is_undone()
    served = tmp_path / "served"
    own.export(served)
    assert Vocabulary.load(served / "assets.extra" / "vocabulary.json").thresholds is None
    choose()
    assert own.class_names == ("a", "b", "c")
    restore()
    assert is_undone()
    assert own.class_names == ()
    own.export(tmp_path / "as before")
    assert not (tmp_path / "as before" / "assets.extra").exists()
