"""The CUDA libraries that TensorFlow loads when it finds a GPU, and which of them are missing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import tensorflow as tf

from harness.commands.doctor.finding import Finding

# What the packages of TensorFlow's extra `and-cuda` hold, for CUDA 12.
_CUDA_12 = {
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcufft.so.11": "nvidia-cufft-cu12",
    "libcusolver.so.11": "nvidia-cusolver-cu12",
    "libcusparse.so.12": "nvidia-cusparse-cu12",
    "libcudnn.so.9": "nvidia-cudnn-cu12",
    "libnccl.so.2": "nvidia-nccl-cu12",
    "libcupti.so.12": "nvidia-cuda-cupti-cu12",
    "libnvrtc.so.12": "nvidia-cuda-nvrtc-cu12",
}
# A process of its own: loaded here, they would stay, and take memory.
_TRY = """
import ctypes, json, sys
missing = []
for name, *places in json.loads(sys.argv[1]):
    for place in (name, *places):
        try:
            ctypes.CDLL(place)
            break
        except OSError:
            continue
    else:
        missing.append(name)
print(json.dumps(missing))
"""


def cuda_version() -> str | None:
    """The version of CUDA that TensorFlow was built for; None where for none."""
    build = tf.sysconfig.get_build_info()
    return build["cuda_version"] if build["is_cuda_build"] else None


def missing_libraries() -> tuple[str, ...]:
    """Those that neither the system's loader finds nor the packages beside TensorFlow hold."""
    wanted = [(name, *map(str, _in_packages(name))) for name in _CUDA_12]
    command = [sys.executable, "-c", _TRY, json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def _in_packages(name: str) -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return [path for folder in folders for path in Path(folder).glob(f"*/lib/{name}")]


def cuda_libraries() -> Finding:
    """All there, or the missing ones by name."""
    subject, version = "CUDA libraries", cuda_version()
    if version is None:
        text = "this TensorFlow is built without CUDA: pip install 'tensorflow[and-cuda]'"
        return Finding(subject=subject, part="gpu", state="limited", text=text)
    if not version.startswith("12."):
        text = f"TensorFlow wants CUDA {version}, whose libraries are not known here"
        return Finding(subject=subject, part="gpu", state="limited", text=text)
    cudnn = tf.sysconfig.get_build_info()["cudnn_version"]
    wants = f"TensorFlow wants CUDA {version} and cuDNN {cudnn}"
    missing = missing_libraries()
    if not missing:
        return Finding(subject=subject, part="gpu", state="ok", text=f"all there; {wants}")
    packages = ", ".join(dict.fromkeys(_CUDA_12[name] for name in missing))
    text = f"missing: {', '.join(missing)}; {wants}. pip install 'tensorflow[and-cuda]' brings them"
    text += f" ({packages})"
    return Finding(subject=subject, part="gpu", state="limited", text=text)
