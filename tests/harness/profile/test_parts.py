"""Name scopes, as XLA keeps them, and the part of a step that each belongs to."""

import pytest

from harness.profile.parts import OTHER_OPERATIONS, PARTS, part_of


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("while/input/GatherV2_1", "input"),
        ("input/XlaCallModule/multi_hot_take_rows", "input"),
        (
            "while/multi_hot_logits_1/multi_hot_dense_1/multi_hot_forward/XlaCallModule/f",
            "first layer, forward",
        ),
        (
            "while/multi_hot_logits_1/multi_hot_dense_1/multi_hot_index/add",
            "first layer, forward",
        ),
        (
            "gradient_tape/while/multi_hot_logits_1/multi_hot_dense_1/add/Sum",
            "first layer, backward",
        ),
        ("while/multi_hot_backward/UnsortedSegmentSum", "first layer, backward"),
        ("while/multi_hot_logits_1/dense_1_1/MatMul", "dense layers, forward"),
        ("multi_hot_logits_1/dropout_0_1/SelectV2", "dense layers, forward"),
        ("while/multi_hot_logits_1/logits_1/MatMul", "dense layers, forward"),
        (
            "gradient_tape/while/multi_hot_logits_1/dense_2_1/MatMul/MatMul_1",
            "dense layers, backward",
        ),
        ("while/loss_1/logistic_loss/Exp", "loss"),
        ("gradient_tape/loss_1/truediv/RealDiv", "loss"),
        ("while/loss_scale/truediv_3", "optimizer"),
        ("while/optimizer/adam/truediv", "optimizer"),
        ("optimizer/cond/is_finite", "optimizer"),
        ("while/body/_1/while/all_reduce/AddN", "all-reduce"),
        ("while/add_1", OTHER_OPERATIONS),
        ("while/my_input/add", OTHER_OPERATIONS),
        ("", OTHER_OPERATIONS),
    ],
)
def test_part_of(path: str, part: str) -> None:
    assert part_of(path) == part
    assert part in PARTS
