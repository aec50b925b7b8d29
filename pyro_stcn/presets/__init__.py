"""Every row of the paper's Tables 1, 3 and 4 by name, and a small version of every system.

A name is "data set/system-observation", for instance "timit/stcn-dense-gmm", "blizzard/vrnn-normal" or
"iamondb/25x256-ladderrnn-dense-gmm". Sizes and recipes of STCN and of the WaveNets are those of the paper and the code
of its authors; those of the other systems are their own authors', as far as they are known (``Preset.source`` says).
None of these gives a number of updates (they train for epochs); here it is 100,000.

With "-published" at the end an STCN preset also draws each latent anew for every use and floors probabilities, as the
released code does: for the dense models what that reports is **not a bound**.

The presets that end in "-small" are for two CPU cores, see :mod:`pyro_stcn.presets.small`.
"""

from __future__ import annotations

import difflib

from .baselines import baselines
from .own import observation_for, stcn_for
from .preset import Preset
from .small import small
from .stcn import stcns

__all__ = ["PRESETS", "Preset", "observation_for", "preset", "stcn_for", "systems"]

#: name -> :class:`Preset`
PRESETS: dict[str, Preset] = dict(sorted((stcns() | baselines() | small()).items()))


def systems() -> tuple[str, ...]:
    """Return the names of all systems: "timit/" and "iamondb/" with "-normal-small" and "-gmm-small" make presets."""
    ending = "-gmm-small"
    names = [name.removeprefix("timit/") for name in PRESETS if name.startswith("timit/") and name.endswith(ending)]
    return tuple(name.removesuffix(ending) for name in names)


def preset(name: str) -> Preset:
    """Return a preset by name.

    :raises ValueError: for an unknown name, with the names that come closest.
    """
    if name not in PRESETS:
        corpus = name.split("/")[0]
        near = difflib.get_close_matches(name, PRESETS, 5, 0.7)
        near = near or [known for known in PRESETS if known.split("/")[0] == corpus] or list(PRESETS)
        raise ValueError(
            f"there is no preset {name!r}; there are: {', '.join(near)} ({len(PRESETS)} in all, in pyro_stcn.PRESETS)"
        )
    return PRESETS[name]
