"""The numbers read from the report of ptxas. Neither ptxas nor a GPU is needed."""

from benchmarks.cuda_registers import Usage, parsed

REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'multi_hot_scatter' for 'sm_90'
ptxas info    : Function properties for multi_hot_scatter
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 38 registers, used 1 barriers, 18432 bytes smem
ptxas info    : Compiling entry function 'multi_hot_count' for 'sm_90'
ptxas info    : Function properties for multi_hot_count
    8 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 16 registers, used 1 barriers, 8 bytes cumulative stack size
"""


def test_registers_and_spills() -> None:
    assert parsed(REPORT) == [
        Usage("multi_hot_count", 16, 12, 0),
        Usage("multi_hot_scatter", 38, 0, 18432),
    ]
