from tests.kernels.multi_hot.xla_contract import XlaContract


class TestGather(XlaContract):
    implementation = "gather"
