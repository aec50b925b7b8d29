"""The main job on real speech, long enough to learn something."""

import dataclasses

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_stcn.checkpoint import load_model
from pyro_stcn.data import load_timit
from pyro_stcn.evaluation import Statistic, evaluate
from pyro_stcn.presets import preset
from pyro_stcn.training import fit

from .benchmarks.constant_baselines import baselines


@pytest.mark.slow
def test_2000_steps_beat_every_constant_distribution_on_held_out_speakers(corpora, tmp_path):
    torch.set_num_threads(2)
    corpus = load_timit(corpora / "timit_sample" / "nltk_layout")
    chosen = preset("timit/stcn-dense-gmm-small")
    pyro.set_rng_seed(0)
    net = chosen.model.build()
    config = dataclasses.replace(chosen.training, steps=2000)
    result = fit(net, corpus.train, corpus.valid, elbo=TraceMeanField_ELBO(), config=config, folder=tmp_path)
    test = evaluate(load_model(result.best)[0], corpus.test, particles=10)
    for name, values in baselines(corpus).items():
        difference = Statistic.of(test.objective - values)
        assert difference.mean > 6 * difference.standard_error, f"only {difference} nats per sequence above the {name}"
