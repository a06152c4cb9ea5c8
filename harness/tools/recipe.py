"""The recipe of `harness train`: settings that the data decide where no flag does.

Some of the train rows are held out, a few candidates train on others, and the one with the lowest
loss on the held-out rows is the recipe; the test rows choose nothing. Of texts, all candidates see
a sample of bounded size, so that the search hardly grows with the rows. The candidates are networks
of one wide hidden layer, which match far larger models on texts (Galke and Scherp, ACL 2022). They
differ in what they see: words alone or pairs as well, by tf-idf or by mere presence.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import harness
from harness.base.checks import check_batch, flags_of, require
from harness.base.decoding import flattened, from_mapping
from harness.base.errors import DivergenceError
from harness.base.quiet import hide_retracing_warnings, quiet_import
from harness.data.options import MAX_TF_IDF_BITS, NOT_OF, DataConfig
from harness.model.options import ModelConfig
from harness.tools.experiment import TrainConfig, trainer_of

if TYPE_CHECKING:
    import numpy as np

    from harness.data.build.sampling import Sample

_OF_TEXTS = ("tokenizer", "ngrams", "num_tokens", "unknown", "weighting", "normalize")
DECIDES = (
    *_OF_TEXTS,
    *("hidden_units", "dropout", "batch_size", "epochs"),
    *("learning_rate", "learning_rate_schedule", "label_smoothing"),
)
"""The settings that a recipe decides."""
_LEAST_ROWS = 200  # train rows below which too few could be held out to tell candidates apart
_HELD_OUT, _MOST_HELD_OUT = 0.1, 5_000
"""The share of the train rows that is held out, and the most rows."""
_LEAST_HELD_OUT = 500  # rows to hold out if that is at most a fifth of them
_MOST_IDS = 1_000_000
"""The most ids that a candidate trains on. Of larger data it takes some of the rows."""
_EPOCHS, _PATIENCE, _LEAST_GAIN = 12, 2, 0.005
"""A candidate ends after so many epochs, or where two have not lowered its loss by this share."""
_MOST_EPOCHS = 30
_ADVANTAGE = 0.03
"""The share by which the loss of pairs of words may be higher if only part of the rows was seen,
since of more rows pairs learn more than words."""
_LONG = 64  # the mean number of a text's words above which punctuation marks are not tried as words
_RUN, _MOST_CHARACTERS, _NO_SPACES = 4, 4_000_000, 16
"""The length of the longest runs of characters that are tried; the most characters of all texts for
which they are, since each is in several runs; and the mean length of distinct words from which
there are hardly any spaces between words: then they are tried whatever the number."""
_SMOOTHING, _MOST_SMOOTHED = 0.05, 50
"""The label smoothing of a network of several classes, and the most classes for which it is used:
with 77 and 150 it cost accuracy. Candidates train without it, as it raises the loss on held-out
rows where it raises the accuracy."""
_MOST_TOKENS = 2**17
_MOST_SAMPLED = 12_000_000
"""The most characters of the texts that all candidates see: some 1.3 million words to train on, and
5,000 rows to hold out."""
_LINEAR: Mapping[str, Any] = {"hidden_units": (0,), "dropout": (0.0,)}
"""A model without a hidden layer."""
_WIDTH, _MOST_ELEMENTS = 128, 2**24
"""Units of the hidden layer, and the most elements of a model's table. With a learning rate that
makes up for it, as `_PACE` does, 512 units are no better and take several times as long."""
_PACE, _MOST_RATE = 0.512, 0.01
"""The product of width and learning rate, on which it depends how far a step of Adam changes the
network's outputs; and the highest learning rate."""
_LINEAR_RATE = 0.03
"""The learning rate of a linear model of rows of length 1, whose loss would still fall after all
epochs at a lower one."""


@dataclass(frozen=True, kw_only=True)
class Found:
    config: TrainConfig  # the settings, with those of the recipe
    data: harness.Dataset  # the data, loaded by the settings
    decided: Sequence[str]  # the names of the settings that a recipe decides for such data
    why: str  # what was tried, for users
    advice: str | None = None  # what the end of the run should say

    @property
    def settings(self) -> dict[str, Any]:
        flat = flattened(asdict(self.config))
        return {name: flat[name] for name in self.decided}

    def __str__(self) -> str:
        # Not those that are off, such as no smoothing.
        shown = {name: value for name, value in self.settings.items() if value not in (None, 0.0)}
        return f"recipe: {' '.join(flags_of(shown))}\n  {self.why}"


def applies(config: TrainConfig) -> bool:
    """Whether there may be a recipe: the data are a user's own rows, not the tutorial's."""
    name = config.data.data
    own = name not in ("synthetic", "imdb") and not name.endswith(".npz")
    return config.recipe == "auto" and own


def find(
    config: TrainConfig,
    given: Set[str],
    *,
    started: Callable[[], None],
    tells: bool = True,
    weights: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Found | None:
    """Finds the settings that nobody gave: that are not in `given` and at their default. Returns
    None if there are none. `started` is called when the data is loaded and candidates begin to
    train; `tells` prints notes about the data to standard error; `weights` are those of the train
    rows' losses, [B]; `progress` is told what is being done."""
    usual, now = flattened(asdict(TrainConfig())), flattened(asdict(config))
    usual["dropout"] = ModelConfig(hidden_units=config.model.hidden_units).dropout
    free = {n for n in DECIDES if n not in given and now[n] == usual[n]}
    if "dropout" not in free and len(set(now["dropout"])) > 1:
        free.discard("hidden_units")  # each rate is for a layer of its own
    if not free:
        return None
    begin, thresholds, advice = time.perf_counter(), None, None
    search = _Search(config, free, tells=tells, weights=weights, progress=progress)
    if (reason := search.why_none()) is not None:
        changes = {**search.views()[0], "epochs": _MOST_EPOCHS}
    else:
        started()
        best = search.best()
        changes, thresholds = search.final(best), best.thresholds
        advice = search.advice(best)
        tried = "; ".join(map(str, search.trials))
        reason = f"loss on held-out rows: {tried} ({time.perf_counter() - begin:.0f} s)"
        if search.is_multi_label and thresholds is None:
            from harness.task.measures import MAX_RANKED

            reason += f"; no thresholds, which take at most {MAX_RANKED:,} probabilities: 0.5 holds"
    config, data = search.settled(changes)
    named = 0 if data.vocabulary is None else len(data.vocabulary.class_names)
    if thresholds is not None and named != data.num_classes:
        reason += "; no thresholds, which are kept with the names of the classes: there are none"
    elif thresholds is not None and data.vocabulary is not None:
        data = replace(data, vocabulary=replace(data.vocabulary, thresholds=thresholds))
    without = _OF_TEXTS if search.kind is None else NOT_OF[search.kind]  # None: ids that are there
    decided = [name for name in DECIDES if name not in without]
    return Found(config=config, data=data, decided=decided, why=reason, advice=advice)


@dataclass(frozen=True, kw_only=True)
class _Trial:
    view: Mapping[str, Any]  # the settings of what it sees
    seen: str  # what it sees, for users
    loss: float  # the lowest loss on the held-out rows
    epochs: int  # the epochs until then
    compared: float  # the loss by which candidates are compared
    share: float  # of all train rows, those that it trained on
    thresholds: Sequence[float] | None = None
    """Where a row may have several classes, the probability above which each is given, [K]."""

    @property
    def is_linear(self) -> bool:
        return "hidden_units" in self.view

    def __str__(self) -> str:
        return f"{self.seen} {self.loss:.4f} after {self.epochs} epochs"


class _Search:
    def __init__(
        self,
        config: TrainConfig,
        free: Set[str],
        *,
        tells: bool,
        weights: np.ndarray | None,
        progress: Callable[[str], None],
    ) -> None:
        with quiet_import():
            from harness.data.sources import source_of

        self.trials: list[_Trial] = []
        self._config, self._tells = config, tells
        self._free, self._weights = free, weights
        self._most_epochs = _EPOCHS if "epochs" in free else config.epochs
        self._implementation = config.execution.implementation  # which candidates compute with
        self._progress = progress
        self._loaded: dict[DataConfig, harness.Dataset] = {}  # all rows, once they are read
        source = source_of(config.data)
        self.kind = None if source is None else source.kind
        self._sample: Sample | None = None
        self._sampled: dict[DataConfig, harness.Dataset] = {}  # its rows, by how texts are read
        self._last: tuple[Any, harness.Trainer, Callable[..., None]] | None = None
        """The last trainer: what it depends on, itself, and what restores its initial state."""
        if source is not None and self.kind == "texts":
            from harness.data.build.sampling import sample_of

            how: dict[str, Any] = {"seed": config.data.split_seed, "most": _MOST_SAMPLED}
            self._sample = sample_of(source, config.data.build, progress=progress, **how)
            self._num_rows = self._sample.num_train_rows
            self.is_multi_label = source.is_multi_label
        else:
            data = self._data(self._with(self.views()[0]))
            self._num_rows, self.is_multi_label = data.train.num_rows, data.is_multi_label

    def views(self) -> Sequence[dict[str, Any]]:
        if self.kind not in ("texts", "tokens"):
            return [{}]
        words: dict[str, Any] = {"weighting": "tf_idf", "normalize": "l2"}
        if (bits := self._config.data.build.hash_bits) is None:
            words |= {"unknown": "drop", "num_tokens": _MOST_TOKENS}
        elif bits > MAX_TF_IDF_BITS:
            words["weighting"] = "binary"
        if self.kind == "tokens":
            return [words]
        # Whether punctuation marks help may depend on whether words are paired.
        build = self._config.data.build
        lengths = (1, 2) if "ngrams" in self._free else (build.ngrams,)
        tokenizers = ("keras", "punctuation") if "tokenizer" in self._free else (build.tokenizer,)
        return [
            {**words, "ngrams": length, "tokenizer": tokenizer}
            for length in lengths
            for tokenizer in tokenizers
        ]

    def settled(self, changes: Mapping[str, Any]) -> tuple[TrainConfig, harness.Dataset]:
        """Returns the command's settings with those of `changes` and sizes for the data, all of
        which a flag overrides; and all rows of the data."""
        data = self._data(self._with(changes))
        return self._sized(changes, data.num_tokens), data

    def _data(self, config: TrainConfig) -> harness.Dataset:
        from harness.data.sources import load_configured

        if config.data not in self._loaded:
            tells = self._tells and not self._loaded
            data = load_configured(config.data, tells=tells, progress=self._progress)
            self._loaded = {config.data: data}  # other rows would fill memory
        return self._loaded[config.data]

    def _sized(self, changes: Mapping[str, Any], num_tokens: int) -> TrainConfig:
        sizes = sizes_for(self._num_rows, num_tokens, self._with(changes), self._free)
        return self._with({**sizes, **changes})

    def _with(self, changes: Mapping[str, Any]) -> TrainConfig:
        changes = {n: v for n, v in changes.items() if n in self._free}
        flat = flattened(asdict(self._config))
        if "dropout" not in self._free and len(set(flat["dropout"])) == 1:
            flat["dropout"] = flat["dropout"][:1]  # one rate holds for any number of layers
        flat |= changes
        config: TrainConfig = from_mapping(TrainConfig, flat, where="the recipe")
        return config

    def why_none(self) -> str | None:
        """Returns why no candidates can be told apart; None if they can. Raises an InputError if
        the network could not be trained with the settings, before candidates train in vain."""
        rows, config = self._num_rows, self._sized(self.views()[0], 1)
        check_batch(batch_size=config.execution.batch_size, rows=rows, replicas=1)
        require(
            config.class_weight == "none" or not self.is_multi_label,
            f"--class-weight is {config.class_weight}, which is for rows of one class each, but "
            f"rows of {config.data.data} may have several; leave it out",
        )
        return None if rows >= _LEAST_ROWS else f"{rows:,} train rows are too few to hold some out"

    def best(self) -> _Trial:
        hide_retracing_warnings()
        first, *others = self.views()
        _, data = self._candidate(first)
        if data.train.nnz > _LONG * data.train.num_rows:  # long texts have all marks
            others = [view for view in others if view["tokenizer"] == first["tokenizer"]]
        if self._may_be_characters(data):
            others.append({**first, "tokenizer": "characters", "ngrams": _RUN})
        seen = set()
        for view in (first, *others):
            rows = self._candidate(view)[1].train.fingerprint
            if rows not in seen:  # otherwise no text has a mark
                self._compare(view)
            seen.add(rows)
        best = min(self.trials, key=lambda trial: trial.compared)
        _, data = self._candidate(best.view)
        is_small = data.num_tokens * data.num_classes <= _MOST_ELEMENTS
        if is_small and {"hidden_units", "dropout"} <= self._free:
            self._compare({**best.view, **_LINEAR})
        return min(self.trials, key=lambda trial: trial.compared)

    def _candidate(self, view: Mapping[str, Any]) -> tuple[TrainConfig, harness.Dataset]:
        """Returns the settings of a candidate, and the data: of texts, the rows of the sample."""
        config = self._with(view)
        if self._sample is None:
            data = self._data(config)
        elif config.data in self._sampled:
            data = self._sampled[config.data]
        else:
            from harness.data.sources import built

            build = replace(config.data.build, strict=False)  # its rows have been checked
            of_sample = replace(config.data, build=build, data_cache="off", validation_split=0.0)
            data = self._sampled[config.data] = built(of_sample, self._sample, tells=False)
        return self._sized(view, data.num_tokens), data

    def _may_be_characters(self, words: harness.Dataset) -> bool:
        if self.kind != "texts" or words.vocabulary is None or not words.vocabulary.ids:
            return False
        length = statistics.fmean(map(len, words.vocabulary.ids))
        ids_of_all = words.train.nnz * self._num_rows / words.train.num_rows
        is_short = length * ids_of_all <= _MOST_CHARACTERS
        return {"tokenizer", "ngrams"} <= self._free and (is_short or length > _NO_SPACES)

    def advice(self, best: _Trial) -> str | None:
        others = [trial.loss for trial in self.trials if not trial.is_linear]
        if not best.is_linear or not others:
            return None
        return (
            f"no network was better than a linear model on held-out rows (loss {min(others):.4f} "
            f"and {best.loss:.4f}), so more units will not help; more rows or better labels may"
        )

    def final(self, best: _Trial) -> dict[str, Any]:
        if self._config.early_stopping is not None:
            return {**best.view, "epochs": _MOST_EPOCHS}
        _, data = self._candidate(best.view)
        # A rate that falls to 0 takes twice the steps of a constant one to its lowest loss, which
        # is lower. A candidate that saw few of the rows took few steps in each of its epochs.
        falls = "learning_rate_schedule" in self._free
        epochs = round((2 if falls else 1) * best.epochs * best.share)
        changes = {**best.view, "learning_rate_schedule": "linear"}
        is_of_several = 2 < data.num_classes <= _MOST_SMOOTHED and not data.is_multi_label
        if is_of_several and not best.is_linear:
            changes["label_smoothing"] = _SMOOTHING
        rate = self._sized(best.view, data.num_tokens).optimizer.learning_rate
        if best.epochs == 1 and "learning_rate" in self._free and rate is not None:
            # The lowest loss may have been within the epoch: as far, in smaller steps.
            epochs, changes["learning_rate"] = 2 * epochs, rate / 2
        return {**changes, "epochs": min(max(2, epochs), _MOST_EPOCHS)}

    def _compare(self, view: Mapping[str, Any]) -> None:
        """Trains the candidates that see the same words, which differ in the weights of these."""
        config, data = self._candidate(view)
        train, held_out = self._rows(config, data)
        trainer = self._trainer(config, data, train)
        self._try(trainer, view, data, train, held_out)
        if "weighting" in self._free and view.get("weighting") == "tf_idf":
            view = {**view, "weighting": "binary"}
            normalize = config.data.build.normalize
            train, held_out = (
                replace(part, inputs={"": _presence(part.ragged[""], normalize)})
                for part in (train, held_out)
            )
            trainer = self._trainer(config, data, train)
            self._try(trainer, view, data, train, held_out)

    def _rows(
        self, config: TrainConfig, data: harness.Dataset
    ) -> tuple[harness.Examples, harness.Examples]:
        """Draws rows that a candidate trains on, and rows to hold out, unless the data has
        validation rows: whole batches, as a smaller last one needs another program."""
        import numpy as np  # so that --help need not wait for it

        batch_size, seed = config.execution.batch_size, config.data.split_seed

        def weighted(sets: harness.RaggedSets, places: Any) -> harness.Examples:
            # Words with and without marks are about as many, and so share compiled programs.
            sets = sets.derived(num_tokens=_rounded(sets.num_tokens))
            examples = harness.Examples.of(sets)
            if self._weights is None or not np.any(self._weights[places]):  # no loss without any
                return examples
            weights = self._weights[places]
            return replace(examples, weights=weights, name="X")  # the estimator's name

        rows = np.arange(data.train.num_rows)
        places = rows if self._sample is None else self._sample.places
        if data.validation is None:
            count = _num_held_out(self._num_rows, batch_size)
            if self._sample is not None:
                count = min(count, _whole(len(rows) // 3, batch_size))
            drawn = data.train.stratified_rows(count, seed=seed)
            held_out, rows = weighted(data.train[drawn], places[drawn]), rows[~drawn]
        else:
            held_out = harness.Examples.of(data.validation)
        # The data may be larger than memory, so only these rows are copied.
        count = _whole(max(1, round(_share(data) * len(rows))), batch_size)
        chosen = np.sort(np.random.RandomState(seed).permutation(rows)[:count])
        return weighted(data.train[chosen], places[chosen]), held_out

    def _trainer(
        self, config: TrainConfig, data: harness.Dataset, train: harness.Examples
    ) -> harness.Trainer:
        """Returns a new trainer, or the last one in its initial state, with its compiled programs,
        if that would be the same but for the ids."""
        rows = train.ragged[""]
        batch_size = min(config.execution.batch_size, train.num_rows)
        config = replace(config, optimizer=replace(config.optimizer, warmup=0))  # steps are few
        key = rows.num_tokens, rows.num_rows, rows.weights is None, config.model, config.optimizer
        if self._last is None or self._last[0] != key:
            execution = replace(
                config.execution, batch_size=batch_size, implementation=self._implementation
            )
            if execution.steps_per_dispatch == "auto":
                # A part of an epoch would need another program than the rest of it.
                execution = replace(execution, steps_per_dispatch=train.num_rows // batch_size)
            data = replace(data, train=rows)
            trainer = trainer_of(config, data, execution, epochs=self._most_epochs)
            self._last = key, trainer, trainer.snapshot(train)
        else:
            _, trainer, restore = self._last
            restore()
        return trainer

    def _try(
        self,
        trainer: harness.Trainer,
        view: Mapping[str, Any],
        data: harness.Dataset,
        train: harness.Examples,
        held_out: harness.Examples,
    ) -> None:
        share = _share(data) * data.train.num_rows / self._num_rows
        has_advantage = share < 1 and view.get("ngrams") == 2
        factor = 1 - _ADVANTAGE if has_advantage else 1
        best = min((trial.compared for trial in self.trials), default=math.inf)
        stopping = _stopping(self._most_epochs, to_beat=best / factor, restores=data.is_multi_label)
        losses, thresholds = [math.inf], None
        seen = _seen(self._with(view), self.kind)
        self._progress(f"candidate {len(self.trials) + 1}: {seen}")
        how: dict[str, Any] = {"validation": held_out, "epochs": self._most_epochs}
        how |= {"callbacks": [stopping], "verbose": False, "telemetry_hz": 0}
        with contextlib.suppress(DivergenceError):
            losses = trainer.fit(train, **how).history["val_loss"]
            assert trainer.last is not None
            if trainer.last.signal:
                raise KeyboardInterrupt
            if trainer.last.start.choices["implementation"].name == "native":
                self._implementation = "native"  # for larger vocabularies too, without measuring
            quality = trainer.last.quality
            if data.is_multi_label and quality is not None:
                thresholds = quality.best_thresholds()
        self.trials.append(
            _Trial(
                view=view,
                seen=seen,
                loss=min(losses),
                epochs=1 + losses.index(min(losses)),
                compared=factor * min(losses),
                share=share,
                thresholds=thresholds,
            )
        )


def _rounded(num_tokens: int) -> int:
    """Returns the next power of two, or three quarters of it if that is enough."""
    power: int = 1 << (num_tokens - 1).bit_length()
    return power * 3 // 4 if num_tokens <= power * 3 // 4 else power


def _whole(num_rows: int, batch_size: int) -> int:
    return num_rows // batch_size * batch_size or num_rows


def _num_held_out(num_rows: int, batch_size: int) -> int:
    """Returns how many of the train rows are held out."""
    least = min(_LEAST_HELD_OUT, num_rows // 5)
    return _whole(max(least, min(round(_HELD_OUT * num_rows), _MOST_HELD_OUT)), batch_size)


def _share(data: harness.Dataset) -> float:
    """Returns the share of the rows at hand that a candidate trains on."""
    of_characters = data.vocabulary is not None and data.vocabulary.tokenizer == "characters"
    most = _MOST_IDS * (_RUN if of_characters else 1)  # a row has that many times as many ids
    return min(1, most / max(data.train.nnz, 1))


def _seen(config: TrainConfig, kind: str | None) -> str:
    build, model = config.data.build, "linear, " if config.model.is_linear else ""
    if kind not in ("texts", "tokens"):
        return f"{model}the ids"
    weighting = {"tf_idf": "tf-idf", "binary": "presence", "count": "counts"}[build.weighting]
    if kind == "tokens":
        return f"{model}{weighting} of items"
    if build.tokenizer == "characters":
        return f"{model}{weighting} of characters, runs of up to {build.ngrams}"
    marks = ", marks" if build.tokenizer == "punctuation" else ""
    runs = {1: "", 2: ", pairs"}.get(build.ngrams, f", runs of up to {build.ngrams}")
    return f"{model}{weighting} of words{marks}{runs}"


def _stopping(epochs: int, *, to_beat: float, restores: bool) -> Any:
    """Returns a callback that ends a candidate when its loss on the held-out rows has flattened, or
    cannot fall below `to_beat` in its last epochs even if it keeps its pace. Keras's own asks for
    the same gain whatever the loss's scale, which of many labels is small."""
    import keras

    class Stopping(keras.callbacks.Callback):
        best, before, wait, weights = math.inf, math.inf, 0, None

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            loss, self.wait = logs["val_loss"], self.wait + 1
            in_reach = loss - (epochs - 1 - epoch) * (self.before - loss)
            self.before = loss
            if loss < (1 - _LEAST_GAIN) * self.best:
                self.best, self.wait = loss, 0
                self.weights = self.model.get_weights() if restores else None
            is_behind = epoch >= _PATIENCE and min(self.best, in_reach) > to_beat
            self.model.stop_training = self.wait >= _PATIENCE or is_behind

        def on_train_end(self, logs: Any = None) -> None:
            if self.weights is not None:
                self.model.set_weights(self.weights)

    return Stopping()


def _presence(sets: harness.RaggedSets, normalize: str) -> harness.RaggedSets:
    """Returns rows of tf-idf as they are loaded with `--weighting binary`."""
    from harness.data.weighting import l2_normalized

    sets = sets.derived(weights=None)
    return l2_normalized(sets) if normalize == "l2" else sets


def sizes_for(rows: int, num_tokens: int, config: TrainConfig, free: Set[str]) -> dict[str, Any]:
    """Returns settings by the number of rows to train on: a hidden layer as wide as pays, and some
    200 steps an epoch."""
    units: Sequence[int] = config.model.hidden_units
    if "hidden_units" in free and not config.model.is_linear:
        units = (2 ** max(5, int(math.log2(min(_WIDTH, _MOST_ELEMENTS / num_tokens)))),)
    sizes = {
        "hidden_units": units,
        "dropout": (0.0 if config.model.is_linear else 0.5,),
        "batch_size": min(rows, 2 ** round(math.log2(min(max(rows / 200, 16), 256)))),
    }
    if "adam" in config.optimizer.optimizer.lower():  # others' rates are on another scale
        is_fast = config.model.is_linear and config.data.build.normalize == "l2"
        most = _LINEAR_RATE if is_fast else _MOST_RATE
        sizes["learning_rate"] = min(_PACE / max(units[0], 1), most)
    return sizes
