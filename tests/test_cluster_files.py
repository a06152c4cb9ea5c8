"""The examples in docs/ for schedulers: the SLURM script and the Kubernetes manifest."""

import ast
import json
import subprocess
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from harness import Trainer
from harness.cli import main as command_line
from harness.tools.experiment import TrainConfig
from harness.trainer.settings import RunOptions
from harness.workers.membership import membership

DOCS = Path(__file__).resolve().parent.parent / "docs"


def settings(text: str) -> TrainConfig:
    """Returns the settings of the `harness train` in a shell script."""
    command = text[text.index("harness train") :].replace("\\\n", " ").splitlines()[0]
    words = command.removesuffix('"$@" &').replace('"', "").replace("$HOME", "/home").split()
    _, parsed, _ = command_line._parse(words[1:])
    assert isinstance(parsed, TrainConfig)
    return parsed


def test_the_script_for_ray() -> None:
    """Ray is no dependency: its `train` is compared with the trainer's own arguments."""
    tree = ast.parse((DOCS / "ray_train.py").read_text())
    calls = {ast.unparse(c.func): c for c in ast.walk(tree) if isinstance(c, ast.Call)}
    options = {keyword.arg for keyword in calls["trainer.fit"].keywords}
    known = {*signature(Trainer.fit).parameters, *(each.name for each in fields(RunOptions))}
    assert options <= known
    assert "HARNESS_CLUSTER_TOKEN" in ast.unparse(calls["ray.init"])


def test_the_slurm_script() -> None:
    path = DOCS / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    train = settings(text)
    assert train.output.resume == "auto"
    options = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "--ntasks-per-node=1" in options
    assert f"--gpus-per-node={train.execution.replicas}" in options
    assert train.execution.batch_size % (2 * 4) == 0


@pytest.mark.parametrize(
    ("name", "host"),
    [("kubernetes.yaml", "harness-3.harness"), ("jobset.yaml", "harness-worker-0-3.harness")],
)
def test_the_kubernetes_manifests(name: str, host: str) -> None:
    yaml = pytest.importorskip("yaml")
    *others, job = yaml.safe_load_all((DOCS / name).read_text())
    spec = job["spec"]
    if job["kind"] == "JobSet":
        (replicated,) = spec["replicatedJobs"]
        spec = replicated["template"]["spec"]
    else:
        kinds = [other["kind"] for other in others]
        assert kinds == ["Service", "NetworkPolicy", "PersistentVolumeClaim"]
        assert spec["template"]["spec"]["subdomain"] == others[0]["metadata"]["name"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    variables = {each["name"]: each.get("value", "secret") for each in container["env"]}
    assert spec["completions"] == spec["parallelism"] == int(variables["WORKERS"])
    assert pod["restartPolicy"] == "Never"
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    (script,) = container["args"]
    assert settings(script).execution.batch_size % spec["completions"] == 0
    # What the script makes of its variables is a cluster.
    shown = script.replace("exec harness train", 'printf "%s" "$TF_CONFIG"; exit; :')
    done = subprocess.run(
        [*container["command"], shown],
        env={**variables, "JOB_COMPLETION_INDEX": "2", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["task"]["index"] == 2
    member = membership({"TF_CONFIG": done.stdout})
    assert (member.index, member.num_workers) == (2, 4)
    assert member.hosts[3] == f"{host}:23456"
