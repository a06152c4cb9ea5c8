import pytest

from kernels.multi_hot.native.build import find_compiler
from tests.kernels.multi_hot.contract import MultiHotContract


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
class TestNative(MultiHotContract):
    implementation = "native"
