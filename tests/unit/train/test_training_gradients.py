"""Gradients of a model as it is: against finite differences, and with losses that need no labels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from training_networks import Arrays, cnn, stripes, weight, with_weights

from onnxprune.errors import DataError, TrainingError, UsageError
from onnxprune.evaluate.data import Dataset, open_data
from onnxprune.runtime import Session
from onnxprune.train.gradients import gradients_of

pytestmark = pytest.mark.usefixtures("each_engine")
TRAINED = {"w1", "scale", "bias", "w2", "b2", "w3", "b3"}


def network() -> onnx.ModelProto:
    """Running statistics that are not those of any batch."""
    random = np.random.default_rng(7)
    return with_weights(
        cnn(), {"mean": random.normal(size=8) / 4, "var": random.uniform(0.5, 2.0, 8), "bias": np.ones(8) / 4}
    )


def data(model: onnx.ModelProto, samples: int = 12, labelled: bool = True) -> Dataset:
    images, labels = stripes(samples, seed=3)
    session = Session(model)
    arrays = {"image": images} | ({"labels": labels} if labelled else {})
    return open_data(arrays, session.inputs, session.outputs)


def probabilities(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def slope(model: onnx.ModelProto, name: str, direction: np.ndarray, objective) -> float:
    """Central difference of a function of the logits along a direction of a weight."""
    images, _ = stripes(12, seed=3)
    values, step = weight(model, name), 1e-3
    moved = [with_weights(model, {name: values + s * step * direction}) for s in (1, -1)]
    up, down = (objective(Session(m).run({"image": images})["logits"].astype(np.float64)) for m in moved)
    return (up - down) / (2 * step)


def mean_gradient(model: onnx.ModelProto, loss: str, **options) -> Arrays:
    found = list(gradients_of(model, data(model), loss, batch_size=12, threads=1, **options))
    assert len(found) == 1
    return found[0]


def objectives(model: onnx.ModelProto):
    images, labels = stripes(12, seed=3)
    own = Session(model).run({"image": images})["logits"].argmax(axis=1)
    return {
        "cross-entropy": lambda y: -np.log(probabilities(y)[np.arange(12), labels]).mean(),
        "own-labels": lambda y: -np.log(probabilities(y)[np.arange(12), own]).mean(),
        "output-norm": lambda y: (y**2).mean(),
    }


@pytest.mark.parametrize("loss", ["cross-entropy", "own-labels", "output-norm"])
def test_gradients_are_those_of_the_model_in_inference(loss):
    model = network()
    gradients = mean_gradient(model, loss)
    assert set(gradients) == TRAINED
    for name, gradient in gradients.items():
        assert gradient.shape == weight(model, name).shape
        length = np.linalg.norm(gradient.astype(np.float64))
        assert length > 1e-5, name
        expected = slope(model, name, gradient / length, objectives(model)[loss])
        assert expected == pytest.approx(length, rel=2e-3), name


@pytest.mark.slow
def test_single_samples_average_to_the_batch():
    model = network()
    whole = mean_gradient(model, "cross-entropy")
    single = list(gradients_of(model, data(model), "cross-entropy", batch_size=1, threads=1))
    assert len(single) == 12
    for name, gradient in whole.items():
        mean = np.mean([one[name] for one in single], axis=0)
        np.testing.assert_allclose(mean, gradient, atol=1e-6, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_mean_gradient_over_drawn_labels_vanishes():
    # The expectation of the score over the model's own distribution is zero.
    model = network()
    drawn = [g["b3"] for g in gradients_of(model, data(model), "sampled-labels", steps=400, threads=1)]
    own = mean_gradient(model, "own-labels")["b3"]
    assert np.abs(np.mean(drawn, axis=0)).max() < 0.15 * np.abs(own).max()
    assert np.linalg.norm(drawn, axis=1).min() > 0


def test_a_final_softmax_changes_nothing():
    model = network()
    plain = mean_gradient(model, "own-labels")
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["logits"], axis=1))
    ended = mean_gradient(model, "own-labels")
    for name, gradient in plain.items():
        np.testing.assert_array_equal(ended[name], gradient)


@pytest.mark.slow
def test_only_the_names_asked_for():
    model = network()
    some = mean_gradient(model, "cross-entropy", names=["w2", "b3", "mean"])
    whole = mean_gradient(model, "cross-entropy")
    assert set(some) == {"w2", "b3"}
    for name, gradient in some.items():
        np.testing.assert_array_equal(gradient, whole[name])


@pytest.mark.slow
def test_steps_go_over_the_data_again_and_seeds_decide():
    model = network()
    runs = [
        list(gradients_of(model, data(model), "sampled-labels", batch_size=8, steps=5, seed=s, threads=1))
        for s in (1, 1, 2)
    ]
    assert [len(run) for run in runs] == [5, 5, 5]
    for first, same in zip(runs[0], runs[1], strict=True):
        np.testing.assert_array_equal(first["w1"], same["w1"])
    assert any((a["w1"] != b["w1"]).any() for a, b in zip(runs[0], runs[2], strict=True))


def test_model_is_not_changed():
    model = network()
    before = model.SerializeToString()
    mean_gradient(model, "own-labels")
    assert model.SerializeToString() == before


def test_missing_labels_and_unknown_losses_are_refused():
    model = network()
    with pytest.raises(DataError, match="labels"):
        next(gradients_of(model, data(model, labelled=False), "cross-entropy"))
    with pytest.raises(UsageError, match="no loss 'hinge'"):
        next(gradients_of(model, data(model), "hinge"))  # type: ignore[arg-type]


def test_gates_sum_activation_times_gradient_of_every_sample():
    model = network()
    found = list(
        gradients_of(
            model,
            data(model),
            "cross-entropy",
            batch_size=5,
            names=["b2"],
            gates={"c2": 1, "f": 1},
            threads=1,
        )
    )
    assert len(found) == 2  # the last two samples do not fill a batch
    assert {name: g.shape for name, g in found[0].items()} == {"b2": (8,), "c2": (5, 8), "f": (5, 8)}
    single = list(
        gradients_of(model, data(model), "cross-entropy", batch_size=1, steps=10, gates={"c2": 1}, threads=1)
    )
    rows = np.concatenate([g["c2"] for g in found]) * 5
    np.testing.assert_allclose(rows, np.concatenate([g["c2"] for g in single]), rtol=1e-4, atol=1e-6)


def test_gate_gradient_is_the_slope_of_turning_a_channel_down():
    # A gate behind c2 scales channel i of c2, weight and bias alike.
    model = network()
    (found,) = gradients_of(model, data(model), "cross-entropy", batch_size=12, gates={"c2": 1}, threads=1)
    channel, step, losses = 3, 1e-3, []
    images, _ = stripes(12, seed=3)
    for sign in (1, -1):
        factor = np.ones(8)
        factor[channel] += sign * step
        scaled = {"w2": weight(model, "w2") * factor[:, None, None, None], "b2": weight(model, "b2") * factor}
        logits = Session(with_weights(model, scaled)).run({"image": images})["logits"].astype(np.float64)
        losses.append(objectives(model)["cross-entropy"](logits))
    expected = (losses[0] - losses[1]) / (2 * step)
    assert found["c2"][:, channel].sum() == pytest.approx(expected, rel=5e-3)


def test_unknown_gates_are_refused():
    model = network()
    with pytest.raises(TrainingError, match="'nowhere'"):
        next(gradients_of(model, data(model), gates={"nowhere": 1}))
