"""Check the arguments of the loss of a linear layer, plan its blocks, run them and reduce."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmax_ce import checks, evaluation
from softmax_ce.choice import auto
from softmax_ce.dtypes import compute_dtype
from softmax_ce.fold import Factors
from softmax_ce.linear import memory as budget
from softmax_ce.linear.products import Layer
from softmax_ce.linear.run import Gradients, LinearRun
from softmax_ce.options import Options
from softmax_ce.problem import Problem
from softmax_ce.reduction import numpy_total
from softmax_ce.run import Outputs
from softmax_ce.shards.arguments import stand_in
from softmax_ce.transform import apply


def evaluate_linear(
    hidden: Any, weight: Any, bias: Any, targets: Any, options: Options, backend: str | None, memory: Any,
    want_grad: bool, buffers: Gradients, make_layer: Any = Layer,
) -> Any:  # fmt: skip
    """Return the loss, the gradients if they are wanted, the log-sum-exp and what is correct, in this order."""
    size = budget.parse(memory)
    options = evaluation.check_options(options)
    hidden, weight, bias = _check_layer(hidden, weight, bias)
    whole = stand_in(hidden.shape[:-1], len(weight), compute_dtype(hidden.dtype))
    checks.check_targets(whole, targets, options.ignore_index)
    evaluation.check_buffers(whole, options, None)
    _check_apart({"out": options.out, "lse_out": options.lse_out}, {"hidden": hidden, "linear_weight": weight})
    apply(whole, options.logit_scale, options.softcap, options.where)
    evaluation.check_combinations(whole, options, False)
    gradients = _check_gradients(buffers, hidden, weight, bias, options, whole) if want_grad else None
    options = evaluation.check_weights(whole, options)
    chosen = auto.choose(backend, True, want_grad, whole.compute, whole.n_rows, whole.n_classes, options.threads)
    auto.check_dtype(chosen, whole.compute)
    total = chosen.total or numpy_total
    factors = evaluation.fold_options(whole, options, total)
    outputs = _outputs(whole, options)
    rows = _counting(whole, factors, options.ignore_index)
    n_rows = whole.n_rows if rows is None else len(rows)
    copies = (whole.targets is not None) + (whole.transform is not None and whole.transform.masks is not None)
    plan = budget.plan(size, n_rows, whole.n_classes, hidden.shape[-1], whole.compute.itemsize, 1 + copies)
    if gradients is not None and rows is not None:
        gradients.hidden[...] = 0  # of the rows that do not count
    if gradients is not None and n_rows == 0:
        gradients.weight[...] = 0
        if bias is not None:
            gradients.bias[...] = 0
    layer = make_layer(hidden, weight, bias, whole.compute, plan.columns)
    run = LinearRun(layer, whole, options, factors, chosen, outputs, gradients, plan)
    run.on(rows)
    if rows is not None and (options.return_lse or options.return_correct):
        run.gradients = None  # 0 times a NaN of a row that does not count would be NaN
        run.on(np.setdiff1d(np.arange(whole.n_rows), rows, assume_unique=True))
    results = [evaluation.reduce_rows(whole, factors, outputs, options, total)]
    if gradients is not None:
        results += [gradients.hidden, gradients.weight]
        if bias is not None:
            results.append(gradients.bias)
    return evaluation.returned(results, whole, options, outputs)


def _check_layer(hidden: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any]:
    """Return the layer's arrays. The bias is converted to the compute dtype."""
    hidden = checks.as_array("hidden", hidden)
    weight = checks.as_array("linear_weight", weight)
    compute = compute_dtype(hidden.dtype, "hidden")
    if compute_dtype(weight.dtype, "linear_weight") != compute:
        raise TypeError(
            f"hidden of dtype {hidden.dtype} and linear_weight of dtype {weight.dtype} are computed in different "
            "precisions; convert one of them"
        )
    if hidden.ndim == 0 or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden of shape {hidden.shape} and linear_weight of shape {weight.shape} do not fit: "
            "their shapes must be (..., D) and (C, D)"
        )
    if len(weight) == 0:
        raise ValueError(f"linear_weight of shape {weight.shape} has no classes")
    if bias is not None:
        bias = checks.check_vector("linear_bias", bias, (len(weight),))
        with np.errstate(all="ignore"):
            bias = bias.astype(compute)
    return hidden, weight, bias


def _check_gradients(buffers: Gradients, hidden: Any, weight: Any, bias: Any, options: Options, whole: Problem) -> Any:
    """Return the gradients' arrays: the caller's buffers, checked, or new ones."""
    if bias is None and buffers.bias is not None:
        raise ValueError("grad_linear_bias_out needs a linear_bias")
    wanted = {
        "grad_hidden_out": (buffers.hidden, hidden.shape),
        "grad_linear_weight_out": (buffers.weight, weight.shape),
        "grad_linear_bias_out": (buffers.bias, (len(weight),)),
    }
    given = {name: buffer for name, (buffer, _) in wanted.items() if buffer is not None}
    for name, buffer in given.items():
        checks.check_buffer(name, buffer, wanted[name][1], (whole.compute,), ())
    inputs = {"hidden": hidden, "linear_weight": weight}
    inputs["targets"] = whole.labels if whole.targets is None else whole.targets
    for name in ("weight", "sample_weight", "where", "grad_output", "out", "lse_out"):
        inputs[name] = getattr(options, name)
    _check_apart(given, inputs)
    checks.check_apart(given)
    arrays = [np.empty(shape, whole.compute) if buffer is None else buffer for buffer, shape in wanted.values()]
    return Gradients(arrays[0], arrays[1], None if bias is None else arrays[2])


def _check_apart(buffers: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Check that no output shares memory with an argument."""
    for name, buffer in buffers.items():
        for other, array in inputs.items():
            if buffer is not None and checks.overlaps(buffer, array):
                raise ValueError(f"{name} overlaps {other}: a result needs memory of its own")


def _outputs(whole: Problem, options: Options) -> Outputs:
    """Return the rows' results, 0 and False for rows that do not count."""
    outputs = Outputs(np.zeros(whole.n_rows, whole.compute), None, None, None)
    if options.return_correct:
        outputs.correct = np.zeros(whole.n_rows, np.bool_)
    if options.return_lse or options.return_correct:
        outputs.row_max, outputs.log_sum = np.zeros((2, whole.n_rows), whole.compute)
    return outputs


def _counting(whole: Problem, factors: Factors, ignore_index: int) -> Any:
    """Return the indices of the rows that count, or None if all do."""
    counts = np.broadcast_to(factors.row_weight != 0, whole.n_rows)
    if whole.any_ignored:
        counts = counts & (whole.labels != ignore_index)
    return None if counts.all() else np.flatnonzero(counts)
