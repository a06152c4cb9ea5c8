from tests.kernels.multi_hot.contract import MultiHotContract, XlaContract


class TestDense(MultiHotContract, XlaContract):
    implementation = "dense"
