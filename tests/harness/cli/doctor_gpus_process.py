"""Runs the doctor's checks of GPUs for one script of the NVML library after another.

Reads `[[script, variables], ...]` from standard input and writes a list of findings for each.
"""

import json
import os
import sys
from pathlib import Path

from harness.cli.doctor_machine import gpus
from harness.program.devices import set_up_devices


def main() -> None:
    devices = set_up_devices("auto")
    script = Path(os.environ["FAKE_NVML_SCRIPT"])
    found = []
    for text, variables in json.load(sys.stdin):
        beside = script.with_suffix(".new")
        beside.write_text(text)
        beside.replace(script)
        os.environ.update(variables)
        found.append([finding._asdict() for finding in gpus(devices)])
        for name in variables:
            del os.environ[name]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
