from tests.kernels.multi_hot.contract import MultiHotContract, XlaContract


class TestGather(MultiHotContract, XlaContract):
    implementation = "gather"
