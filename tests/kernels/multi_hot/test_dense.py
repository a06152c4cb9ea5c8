from tests.kernels.multi_hot.xla_contract import XlaContract


class TestDense(XlaContract):
    implementation = "dense"
