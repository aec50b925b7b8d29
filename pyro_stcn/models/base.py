"""The contract of a sequence model: what training, evaluation and generation may ask of any system."""

from __future__ import annotations

import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from .filtering import ParticleFilter, Terms

__all__ = ["Carry", "DeterministicModel", "Evidence", "NoLatents", "SequenceModel", "SharedGuide", "check_sizes"]


class Evidence(StrEnum):
    """What a number computed from this model and its guide is, relative to log p(x)."""

    EXACT = "exact log-likelihood"
    LOWER_BOUND = "lower bound"
    ESTIMATE = "not a bound"


class Carry:
    """What the latents of one window of a long sequence leave for the next: the model takes it up and replaces it.

    ``value`` is None before the first window. Everything else that a window needs of the past is a function of x, see
    :meth:`SharedGuide.read`.
    """

    def __init__(self) -> None:
        self.value: Any = None


class SequenceModel(nn.Module, ABC):
    """A distribution over sequences, as a Pyro ``model`` and ``guide`` and as a machine that takes one step at a time.

    The pair is used like any other in Pyro::

        svi = SVI(net.model, net.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        svi.step(x, mask)

    and as a torch module: ``Trace_ELBO()(net, net.guide)`` holds the parameters of the network.

    Facts about itself, so that no other code needs to know its class:

    * ``latent_names``: the sites, "z1" first;
    * ``evidence``: whether its objective is exact, a lower bound, or neither;
    * ``pointwise``: x_t depends on z_t alone given the past of x, so that time is a plate and importance weights may
      be taken per step;
    * ``has_filter``: whether there is a particle filter of it;
    * ``guide_sees_future``: whether q(z_t | .) looks at x_(t+1) and later;
    * ``draws_once``: whether each latent has one value in a run, which can then be given, held or sharpened;
    * ``has_training_term``: whether ``model`` and ``guide`` take an ``auxiliary_weight``: of a term that helps training
      and is no part of a bound. It is 0, and the term not there, wherever it is not given.
    """

    config: Any
    data_dim: int
    guide: Any
    guide_sees_future: bool
    draws_once: bool = True
    scores_first_step: bool = True  # without, x_1 is given and T - 1 steps are scored
    has_training_term: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._name_parameters()

    def _name_parameters(self) -> None:
        # Pyro's parameter store is global and goes by name: with equal names a second instance would silently train the
        # first one's weights. The store also holds on to what it is given, so what is registered leaves with the
        # instance.
        self.pyro_name = f"{type(self).__name__}-{uuid.uuid4().hex[:12]}"
        weakref.finalize(self, _forget_parameters, self.pyro_name).atexit = False

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._name_parameters()  # a copy has weights of its own

    # ----------------------------------------------------------------------------------------------- facts about itself

    @property
    @abstractmethod
    def latent_names(self) -> tuple[str, ...]:
        """The latent sites, the one nearest the data first; empty where there are none."""

    @property
    def evidence(self) -> Evidence:
        """What the objective is, relative to log p(x): exact or a bound, where the head is a density."""
        if not self.config.observation.normalised:
            return Evidence.ESTIMATE
        return Evidence.LOWER_BOUND if self.latent_names else Evidence.EXACT

    @property
    @abstractmethod
    def pointwise(self) -> bool:
        """Whether x_t depends on no latent but those of its own step, given the past of x."""

    # -------------------------------------------------------------------------------------------- the Pyro program

    @abstractmethod
    def model(self, x: Tensor, mask: Tensor | None = None, annealing_factor: float | Tensor = 1.0) -> Any:
        """Generate the sequences: the sites are ``latent_names`` and "x".

        :param x: observations, ``(batch, time, data_dim)``; what lies where ``mask`` is False is never read.
        :param mask: bool ``(batch, time)``, True at real steps; None where all are real. A step inside a sequence that
            is masked out is not scored, and later steps see zeros in its place.
        :param annealing_factor: weight of the latent sites in model and guide, greater than 0; 1 for a bound.
        """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run :meth:`model`, so that the network itself can be given to Pyro as the model."""
        return self.model(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------- one step at a time

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """Return the state before the first step; a value, never changed in place."""

    @abstractmethod
    def step(self, state: Any, x_previous: Tensor) -> tuple[Any, dist.TorchDistribution]:
        """Draw the latents of the next step and return the new state and p(x_t | latents, x_<t).

        :param x_previous: the step before, ``(batch, data_dim)``; zeros before the first.
        :returns: the state, and a distribution with batch shape ``(batch,)`` and event shape ``(data_dim,)``.
        """

    def step_given(self, state: Any, x_previous: Tensor, x: Tensor, particles: int | None = None) -> tuple[Any, Terms]:
        """Do what :meth:`step` does where the step itself is known: its latents come from the guide, if that can be.

        ``exp(prior - posterior + likelihood)`` is an unbiased estimate of p(x_t | what the state holds). By default the
        latents come from the prior, which is valid and wasteful: guides that look ahead cannot be asked.

        :param x_previous: the step before, ``(batch, data_dim)``; zeros before the first.
        :param x: the step, ``(batch, data_dim)``.
        :param particles: for a :attr:`pointwise` model, how many draws to score; its state does not depend on them.
        :returns: the state, and log-densities ``(batch,)``, with ``particles`` in front where they were asked for.
        """
        state, distribution = self.step(state, x_previous)
        likelihood = distribution.log_prob(x)
        return state, Terms(torch.zeros_like(likelihood), torch.zeros_like(likelihood), likelihood)

    def state_after(self, x: Tensor, *, from_guide: bool = True) -> Any:
        """Return the state from which :meth:`step` goes on behind ``x``: it takes the last step as ``x_previous``.

        :param x: a clean beginning of every sequence, ``(batch, time, data_dim)``.
        :param from_guide: draw the latents of the beginning from the guide, which knows it, and not from the prior.
        """
        latents = {} if self.pointwise or not from_guide else self.guide(x)
        self.guide.release()
        latents = {name: value for name, value in latents.items() if name != "x"}
        state, previous = self.initial_state(len(x)), torch.zeros_like(x[:, 0])
        for t, observed in enumerate(x.unbind(1)):
            with poutine.condition(data={name: value[:, t] for name, value in latents.items()}):
                state, _ = self.step(state, previous)
            previous = observed
        return state

    def filtering(self, x: Tensor, mask: Tensor | None, particles: int) -> ParticleFilter:
        """Return the particle filter of a clean batch, for models whose latents reach later steps.

        :raises NotImplementedError: where there is none, with what to use instead.
        """
        raise NotImplementedError(f"{type(self).__name__} has no particle filter: {self.no_filter}")

    @property
    def has_filter(self) -> bool:
        """Whether :meth:`filtering` gives a particle filter, so that ``FIVO`` is a bound for this model."""
        return type(self).filtering is not SequenceModel.filtering

    #: why there is no particle filter, and what to use instead
    no_filter = "IWAE gives a bound for every model"

    # ---------------------------------------------------------------------------------------- shared by all models

    @property
    def sequence_dim(self) -> int:
        """Dimension of the plate "sequences": -2 beside a time plate, -1 where time is part of the event."""
        return -2 if self.pointwise else -1

    def plates(self, x: Tensor) -> ExitStack:
        """Return the plates that hold for this model: "sequences", and "time" only where steps are independent."""
        stack = ExitStack()
        stack.enter_context(pyro.plate("sequences", x.shape[0], dim=self.sequence_dim))
        if self.pointwise:
            stack.enter_context(pyro.plate("time", x.shape[1], dim=-1))
        return stack

    def over_time(self, distribution: dist.TorchDistribution, mask: Tensor | None) -> dist.TorchDistribution:
        """Mask a distribution of batch shape ``(..., batch, time)``; time joins the event where it is no plate."""
        if mask is not None:
            distribution = distribution.mask(mask)
        return distribution if self.pointwise else distribution.to_event(1)

    def draws_looked_at(self, mask: Tensor) -> Tensor:
        """Return which steps' draws a step that is scored can look at, of shape ``(batch, time)`` as the mask.

        Those behind the last real step change no figure; where steps are independent, no missing step's draws do.
        """
        if self.pointwise:
            return mask
        return mask.flip(1).cumsum(1).flip(1) > 0

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Be in evaluation mode within the block; afterwards every part is in the mode it was in."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training

    def clean(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return x with zeros for all that is masked out, whatever it was: NaN times zero would be NaN.

        :raises ValueError: for wrong shapes, and (with Pyro's validation on) for a non-finite value that is not
            masked out.
        """
        weight = next(self.parameters(), None)
        if not isinstance(x, Tensor) or (weight is not None and x.dtype != weight.dtype):
            what = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must be a tensor of the model's type, not {what}: x.to(next(net.parameters()))")
        if x.ndim != 3 or x.shape[-1] != self.data_dim or x.shape[1] == 0:
            raise ValueError(f"x must be (batch, time, {self.data_dim}) with at least one step, not {tuple(x.shape)}")
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
                raise ValueError(
                    f"mask must be a bool tensor of shape {tuple(x.shape[:2])}, True at real steps, not {mask.dtype} "
                    f"of shape {tuple(mask.shape)}"
                )
            x = torch.where(mask.unsqueeze(-1), x, x.new_zeros(()))
        if is_validation_enabled() and not torch.isfinite(x).all():
            sequence, step, channel = (~torch.isfinite(x)).nonzero()[0].tolist()
            raise ValueError(
                f"x is {x[sequence, step, channel].item()} at sequence {sequence}, step {step}, channel {channel}; "
                "repair the data, or mask that step out (it is then not scored, and later steps see zeros in its place)"
            )
        return x


class SharedGuide(GuideMessenger):
    """A guide that runs its model once and is handed each prior as it comes, so that what both need is computed once.

    To the outside it is a guide like any other: its trace holds the latents and not the data. A plain
    ``GuideMessenger`` also shows the observed sites to whoever traces it; ``Predictive`` would then return the data
    as its own prediction, and ``pyro.infer.importance`` would cancel the likelihood, both without an error.

    As with every ``GuideMessenger``, an ELBO uses the model that the guide was built on and not the one it is given
    beside it: to scale or condition the pair, put the handler around the call,
    ``with poutine.scale(scale=0.1): svi.step(x)``.
    """

    @property
    def net(self) -> Any:
        """The model this guide belongs to."""
        return self.model.__self__  # type: ignore[attr-defined]

    def prepare(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        """Compute what a run needs of the data before anything is drawn.

        ``guide(x, mask, prepared=guide.prepare(x, mask))`` is ``guide(x, mask)``: with it, many runs on the same batch
        run the networks that read x only once.
        """
        return {}

    def read(self, x: Tensor, mask: Tensor | None = None, reading: Any = None) -> tuple[dict[str, Any], Any]:
        """Do what :meth:`prepare` does for a window of a longer sequence.

        ``guide(x, mask, prepared=prepared, carry=carry)`` then draws and scores the steps of this window, given all
        that went before: see :class:`Carry`, one for each set of draws.

        :param reading: what the call for the window before returned; None for the first.
        :returns: what to give the guide as ``prepared``, and the reading to go on from.
        :raises NotImplementedError: where the guide looks ahead, beyond any window.
        """
        if self.net.guide_sees_future:
            reason = "its guide looks ahead to the end of the sequence"
        else:
            reason = "its guide does not say what it carries from one to the next"
        raise NotImplementedError(f"{type(self.net).__name__} cannot be scored window by window: {reason}")

    def __call__(
        self, x: Tensor, mask: Tensor | None = None, *args: Any, prepared: dict[str, Any] | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Draw all latents given ``x``; returns the value of every sample site.

        The arguments are those of the model, and ``prepared`` what :meth:`prepare` gave for the same data.
        """
        given = self.prepare(x, mask) if prepared is None else prepared
        x = given.get("x", x)
        return self._run(x, mask, *args, **kwargs, **{name: value for name, value in given.items() if name != "x"})

    def _run(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        values = super().__call__(*args, **kwargs)
        observed = [name for name, site in self.trace.nodes.items() if site.get("is_observed")]
        # Blocking the sites would hide them from plates and scales, too: they are taken out of the records afterwards.
        for handler in _PYRO_STACK:
            if isinstance(handler, TraceMessenger):
                for name in set(observed) & set(handler.trace.nodes):  # a trace of parameters alone has none
                    handler.trace.remove_node(name)
        return values

    def get_traces(self) -> tuple[poutine.Trace, poutine.Trace]:
        """Return (model trace, guide trace) of the last run.

        A latent that a handler around the call has conditioned on counts as data: it is in the model trace alone, under
        its prior.
        """
        model_trace, guide_trace = super().get_traces()
        for name, site in list(model_trace.nodes.items()):
            prior = (site.get("infer") or {}).get("prior")
            if prior is not None:
                model_trace.nodes[name] = site | {"fn": prior}
        return model_trace, guide_trace

    def release(self) -> None:
        """Forget the last run: its trace holds every tensor of it."""
        self.trace = poutine.Trace()


class NoLatents(SharedGuide):
    """The guide of a model without latents: it runs the model and draws nothing."""

    net: DeterministicModel

    def read(self, x: Tensor, mask: Tensor | None = None, reading: Any = None) -> tuple[dict[str, Any], Any]:
        """Run the network over a window."""
        x = self.net.clean(x, mask)
        state, before = (self.net.initial_state(len(x)), torch.zeros_like(x[:, :1])) if reading is None else reading
        hidden, state = self.net.extend(state, torch.cat([before, x[:, :-1]], dim=1))
        return {"x": x, "hidden": hidden, "begins": reading is None}, (state, x[:, -1:].clone())

    def get_posterior(self, name: str, prior: Any) -> Any:
        """Never called."""
        raise AssertionError(f"a model without latents has a latent {name!r}")


class DeterministicModel(SequenceModel):
    """A model without latents: given the past of x, steps are independent and the log-likelihood is exact."""

    guide_sees_future = False
    no_filter = "its log-likelihood is exact"

    def __init__(self) -> None:
        super().__init__()
        self.guide = NoLatents(self.model)

    def extend(self, state: Any, past: Tensor) -> tuple[Tensor, Any]:
        """Return what the head reads at many steps, ``(batch, time, dim)``, and the state after them.

        :param state: as :meth:`initial_state` and :meth:`step` give it.
        :param past: the step before each, ``(batch, time, data_dim)``; zeros before the first.
        :raises NotImplementedError: by default: a model can be scored window by window only if it has this.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be scored window by window: it has no extend")

    def state_after(self, x: Tensor, *, from_guide: bool = True) -> Any:
        """Return the state behind ``x``, in one pass if the model can; see :meth:`SequenceModel.state_after`."""
        if type(self).extend is DeterministicModel.extend:
            return super().state_after(x, from_guide=from_guide)
        return self.extend(self.initial_state(len(x)), F.pad(x, (0, 0, 1, 0))[:, :-1])[1]

    @property
    def latent_names(self) -> tuple[str, ...]:
        """There are none."""
        return ()

    @property
    def pointwise(self) -> bool:
        """Given the past of x, steps are independent."""
        return True


def check_sizes(config: Any, *names: str) -> None:
    """Refuse a configuration in which one of these fields is less than 1.

    :raises ValueError: naming the first.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")


def _forget_parameters(prefix: str) -> None:
    store = pyro.get_param_store()
    for name in list(store.keys()):
        if name.startswith(prefix):
            del store[name]
