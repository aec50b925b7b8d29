"""The recorded cases: a released configuration made small, and the variables that belong to it."""

import json
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
PATHS = {path.stem: path for path in sorted(FIXTURES.rglob("*.json"))}
CASES = list(PATHS)


def config_of(case):
    return json.loads(PATHS[case].read_text())


def weights_of(case, prefix="w/"):
    """Variables by TensorFlow's name, float32."""
    with np.load(PATHS[case].with_suffix(".npz")) as file:
        return {k[len(prefix) :]: file[k].astype("f4") for k in file.files if k.startswith(prefix)}


def with_slots(weights):
    """What that code's checkpoints hold beside the weights."""
    slots = {f"{name}/{slot}": np.zeros_like(array) for name, array in weights.items() for slot in ("Adam", "Adam_1")}
    powers = {f"beta{i}_power": np.array(0.5, "f4") for i in (1, 2)}
    return {**weights, **slots, **powers, "global_step": np.array(1234, "i4")}
