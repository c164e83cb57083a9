"""The files for other machines, by the words of the tools that read them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

HOSTS = Path(__file__).parents[2] / "flows" / "hosts"


def checked(*words: str) -> str:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_unit_is_one_that_systemd_takes(tmp_path):
    unit = tmp_path / "medseg-worker@.service"
    text = (HOSTS / unit.name).read_text()
    assert "/opt/medseg/bin/prefect worker start --pool medseg-gpu" in text
    unit.write_text(text.replace("/opt/medseg/bin/prefect", shutil.which("true")))  # which has to be there
    assert checked("systemd-analyze", "verify", str(unit)) == ""


def test_slurm_script_is_bash():
    checked("bash", "-n", str(HOSTS / "slurm.sh"))


def test_shards_of_the_kubernetes_job_are_as_many_as_its_pods():
    job = yaml.safe_load((HOSTS / "kubernetes-job.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["completionMode"] == "Indexed"
    assert container["args"][0].endswith(f'"$((JOB_COMPLETION_INDEX + 1))/{job["completions"]}"')
