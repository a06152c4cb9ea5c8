"""The counts from XLA's text of a program, and the checks that they fail. No JAX is needed."""

from pathlib import Path

import pytest

from benchmarks.gpu_programs import lower, verdict

PROJECT_ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """HloModule train, entry_computation_layout={()->f32[2]{0}}

%fused (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %multiply.1 = f32[2]{0} multiply(%p, %p)
}

%body (state: (s32[], f32[2])) -> (s32[], f32[2]) {
  %state = (s32[], f32[2]{0}) parameter(0)
  %step = s32[] get-tuple-element(%state), index=0
  %sums = f32[2]{0} get-tuple-element(%state), index=1
  %fusion.1 = f32[2]{0} fusion(%sums), kind=kLoop, calls=%fused
  %gemm = (f32[2]{0}, s8[64]{0}) custom-call(%fusion.1), custom_call_target="__cublas$gemm"
  %all-reduce-start = f32[2]{0} all-reduce-start(%fusion.1), to_apply=%fused
  %all-reduce-done = f32[2]{0} all-reduce-done(%all-reduce-start)
  ROOT %tuple = (s32[], f32[2]{0}) tuple(%step, %all-reduce-done)
}

%condition (state: (s32[], f32[2])) -> pred[] {
  %state = (s32[], f32[2]{0}) parameter(0)
  ROOT %less = pred[] compare(%state, %state), direction=LT
}

ENTRY %main () -> f32[2] {
  %start = (s32[], f32[2]{0}) tuple()
  %while.1 = (s32[], f32[2]{0}) while(%start), condition=%condition, body=%body, TRIPS
  ROOT %result = f32[2]{0} get-tuple-element(%while.1), index=1
}
"""
KNOWN = PROGRAM.replace("TRIPS", 'backend_config={"known_trip_count":{"n":"40"}}')


TRAINING = {"kind": "train", "implementation": "gather", "table": "dense", "gpus": 2}


def test_counts_are_those_of_the_loop() -> None:
    assert verdict.counts(KNOWN, 10_000) == {
        "own_calls": [],
        "not_capturable": [],
        "loops": 1,
        "trip_count_known": True,
        "launches_per_step": 3,
        "collectives_per_step": 1,
        "host_transfers": 0,
    }


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        (PROGRAM.replace("TRIPS", "frontend_attributes={}"), "a loop has no known trip count"),
        (KNOWN.replace("fusion(%sums)", "send(%sums)"), "a transfer to the host inside the loop"),
        (KNOWN.replace("all-reduce-start(", "copy-start("), "0 collectives a step, not 1"),
        (KNOWN.replace(" while(", " call("), "no loop"),
    ],
)
def test_faults(program: str, fault: str) -> None:
    found = [*verdict.faults(TRAINING, verdict.counts(program, 10_000))]
    assert any(fault in line for line in found), found


def test_kernels_that_are_not_called() -> None:
    found = [*verdict.faults({**TRAINING, "implementation": "native"}, verdict.counts(KNOWN, 9))]
    assert found == ["calls none of the kernels"]


@pytest.mark.parametrize(
    ("before", "found"),
    [
        ({"train": {"h100": 3}}, []),
        ({"train": {"h100": 4}}, []),
        ({"train": {"h100": 2}}, ["train on h100: 3 launches a step, 2 before"]),
        ({"train": {"a100": 3}}, ["train on h100: 3 launches a step, nothing on record before"]),
    ],
)
def test_more_launches_than_on_record(before: verdict.Table, found: list[str]) -> None:
    assert [*verdict.regressions({"train": {"h100": 3}}, before)] == found


def test_a_record_is_read_as_it_was_written() -> None:
    table = {"train": {"h100": 17, "a100": 25}, "evaluate": {"h100": 8, "a100": 9}}
    assert verdict.read(verdict.written(table)) == table


def test_the_record_has_every_program() -> None:
    record = PROJECT_ROOT / "benchmarks" / "results" / "gpu-programs.txt"
    names = [case.name for case in lower.cases(short=False)]
    assert list(verdict.read(record.read_text())) == names
    assert {case.name for case in lower.cases(short=True)} <= {*names}
