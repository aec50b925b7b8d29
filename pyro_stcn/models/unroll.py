"""Latents that depend on their own past, as one Pyro distribution: p(z_1, z_2 ...) = prod_t p(z_t | z_<t).

A sequential model states its conditionals (:class:`Conditionals`). :class:`Unroll` runs them over a batch, in the one
loop over time that model, guide and conditioning share, and :class:`StepwiseNormal` is what Pyro sees: a distribution
of the whole trajectory with batch shape ``(batch,)`` and event shape ``(time, dim)``.

Only what depends on the previous draw is in the loop. Once the trajectory is drawn, its states are known, and all
that can be computed from them (the priors, where the guide does not need them; the emissions) is computed for all
steps at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import kl_divergence, register_kl

from ..nets import Gaussian, prior_where_masked

__all__ = ["Conditionals", "StepwiseNormal", "Trajectory", "Unroll"]

State = Any  # a NamedTuple of tensors (..., dim)
Rows = tuple[Tensor, ...]  # what is known at a step, each (..., dim); of all steps at once, each (..., time, dim)
Prior = Callable[[], Gaussian]


class Conditionals(ABC):
    """What a sequential latent model states, once: everything else is derived from it.

    At step t, in this order: :meth:`observe` takes in what the past of x adds, z_t is drawn from :meth:`prior` (or by
    the guide, from :meth:`posterior`), :meth:`absorb` takes it in, and the emission p(x_t | .) is read off. A state is
    a NamedTuple of tensors, never changed in place. All methods take any leading dimensions: the loop calls them with
    ``(..., dim)`` for one step, and where no loop is needed with ``(..., time, dim)`` for all steps at once.

    Contexts are functions of x_<t and of noise, and the recognition features of the guide of any x.
    """

    latent_dim: int

    @abstractmethod
    def initial_memory(self, lead: torch.Size) -> State:
        """Return the state before the first step, with these leading dimensions."""

    def observe(self, state: State, contexts: Rows) -> State:
        """Take in x_(t-1), at every step but the first. By default there is nothing to take in."""
        return state

    @abstractmethod
    def prior(self, state: State, contexts: Rows) -> Gaussian:
        """p(z_t | z_<t, x_<t)."""

    @abstractmethod
    def posterior(self, state: State, contexts: Rows, recognition: Rows, prior: Prior) -> Gaussian:
        """q(z_t | z_<t, x).

        :param prior: gives :meth:`prior` of the same step. Call it only if you need it: the priors are then computed
            in the loop instead of all at once after it.
        """

    @abstractmethod
    def absorb(self, state: State, contexts: Rows, z: Tensor) -> State:
        """Take in z_t."""


@dataclass(eq=False)
class Trajectory:
    """The latents of all steps and the states that they lead through.

    :param z: ``(..., time, dim)``.
    :param before: the state that z_t is drawn in, ``(..., time, dim)`` each.
    :param after: the state that x_t is drawn in.
    :param normals: the distributions of z that are known already, by what computes them.
    """

    z: Tensor
    before: State
    after: State
    normals: dict[Any, Gaussian] = field(default_factory=dict)


class Unroll:
    """One pass of a model over a batch. It keeps the last trajectory, so model and guide find each other's work.

    :param net: states the conditionals.
    :param contexts: what the past of x gives at each step, ``(..., time, dim)`` each.
    :param mask: True at real steps, ``(batch, time)``.
    :param recognition: what the guide knows beside that.
    :param window: whether this is a part of a longer sequence.
    :param before: the state that the part before ended in; None at the beginning.
    """

    def __init__(
        self,
        net: Conditionals,
        contexts: Rows,
        mask: Tensor | None,
        recognition: Rows = (),
        window: bool = False,
        before: State | None = None,
    ):
        self.net, self.contexts, self.mask, self.recognition = net, contexts, mask, recognition
        self.window, self.before = window, before
        self.trajectory: Trajectory | None = None
        # Padding at the end has no influence on what comes before. A hole does, so there the guide must not say more
        # than the prior: a masked site is not charged for. In a window it is not known what follows.
        self.holes = mask is not None and bool((~mask if window else mask[:, 1:] & ~mask[:, :-1]).any())

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return self.contexts[0].shape[-2]

    def extended(self, contexts: Rows, before: State | None = None) -> Unroll:
        """Return the pass with more contexts, and for a window with the state that it begins in."""
        return Unroll(self.net, self.contexts + contexts, self.mask, self.recognition, self.window, before)

    # Two conditionals, also keys of ``Trajectory.normals``: how z_t is distributed at one step, or at all of them. They
    # are passed on as functions of the class. Bound to the pass they would tie it to itself, and its tensors would live
    # until the garbage collector comes.

    def prior(self, state: State, contexts: Rows, recognition: Rows, prior: Prior) -> Gaussian:
        """Return the model's."""
        return prior()

    def posterior(self, state: State, contexts: Rows, recognition: Rows, prior: Prior) -> Gaussian:
        """Return the guide's."""
        return self.net.posterior(state, contexts, recognition, prior)

    # Rows are taken apart once for all steps: the gradient of one slice of a tensor is a tensor of its whole size, and
    # a slice a step would make the backward pass quadratic in time.

    @cached_property
    def _contexts_by_step(self) -> list[Rows]:
        return _by_step(self.contexts, self.steps)

    @cached_property
    def _recognition_by_step(self) -> list[Rows]:
        return _by_step(self.recognition, self.steps)

    def contexts_at(self, t: int) -> Rows:
        """Return the contexts of one step."""
        return self._contexts_by_step[t]

    def enter(self, t: int, state: State) -> tuple[State, Once]:
        """Begin step t: return the state that z_t is drawn in, and its prior."""
        contexts = self.contexts_at(t)
        if t or self.before is not None:
            state = self.net.observe(state, contexts)
        return state, Once(self.net, state, contexts)

    def distribution_at(self, t: int, conditional: Callable[..., Gaussian], state: State, prior: Prior) -> Gaussian:
        """Return how z_t is distributed in a state, by a conditional."""
        gaussian = conditional(self, state, self.contexts_at(t), self._recognition_by_step[t], prior)
        return self._unmasked(gaussian, prior, t)

    def draw(self, conditional: Callable[..., Gaussian], noise: Tensor) -> Tensor:
        """Draw all steps from standard normal noise ``(..., time, dim)``, and keep the trajectory."""
        drawn: list[Gaussian] = []

        def choose(t: int, state: State, prior: Prior) -> Tensor:
            drawn.append(self.distribution_at(t, conditional, state, prior))
            return drawn[-1].loc + drawn[-1].scale * noise[..., t, :]

        self.trajectory = self._loop(noise.shape[:-2], choose)
        self.trajectory.normals[conditional] = _stack(drawn)
        return self.trajectory.z

    def follow(self, z: Tensor) -> Trajectory:
        """Return the trajectory through given latents ``(..., time, dim)``, the kept one if these are its own."""
        if self.trajectory is None or self.trajectory.z is not z:
            lead = torch.broadcast_shapes(z.shape[:-2], *(row.shape[:-2] for row in self.contexts))
            given = z.unbind(-2)
            self.trajectory = self._loop(lead, lambda t, state, prior: given[t].expand(*lead, -1))
            self.trajectory.z = z
        return self.trajectory

    def normal(self, conditional: Callable[..., Gaussian], z: Tensor) -> dist.Normal:
        """Return the distribution of every z_t given the ones before: a Normal of shape ``(..., time, dim)``."""
        trajectory = self.follow(z)
        normals = trajectory.normals

        def prior() -> Gaussian:
            if Unroll.prior not in normals:
                normals[Unroll.prior] = self.net.prior(trajectory.before, self.contexts)
            return normals[Unroll.prior]

        if conditional not in normals:
            gaussian = conditional(self, trajectory.before, self.contexts, self.recognition, prior)
            normals[conditional] = self._unmasked(gaussian, prior)
        return dist.Normal(*normals[conditional])

    def _loop(self, lead: torch.Size, choose: Callable[[int, State, Prior], Tensor]) -> Trajectory:
        state = self.net.initial_memory(lead) if self.before is None else self.before
        before, after, draws, priors = [], [], [], []
        for t in range(self.steps):
            old, prior = self.enter(t, state)
            z = choose(t, old, prior)
            state = self.net.absorb(old, self.contexts_at(t), z)
            before.append(old)
            draws.append(z)
            priors.append(prior.value)
            after.append(state)
        trajectory = Trajectory(torch.stack(draws, -2), _stack(before), _stack(after))
        if all(value is not None for value in priors):
            trajectory.normals[Unroll.prior] = _stack(priors)
        return trajectory

    def _unmasked(self, gaussian: Gaussian, prior: Prior, t: int | slice = slice(None)) -> Gaussian:
        if self.mask is None or not self.holes:
            return gaussian
        return prior_where_masked(gaussian, prior(), self.mask[:, t])


class Once:
    """The prior of a step, computed when it is first asked for."""

    def __init__(self, net: Conditionals, state: State, contexts: Rows):
        self.arguments = net, state, contexts
        self.value: Gaussian | None = None

    def __call__(self) -> Gaussian:
        if self.value is None:
            net, state, contexts = self.arguments
            self.value = net.prior(state, contexts)
        return self.value


def _by_step(rows: Rows, steps: int) -> list[Rows]:
    return list(zip(*(row.unbind(-2) for row in rows), strict=True)) if rows else [()] * steps


def _stack(values: list) -> Any:
    """Stack NamedTuples of tensors ``(..., dim)`` over time: one of tensors ``(..., time, dim)``."""
    return type(values[0])(*(torch.stack(parts, -2) for parts in zip(*values, strict=True)))


class StepwiseNormal(TorchDistribution):
    """The joint distribution of z_1 ... z_T with Normal conditionals: batch shape ``(batch,)``, event ``(T, dim)``.

    Drawing it is a loop; its density at a trajectory is not, once that has been drawn or followed. At a trajectory that
    was drawn here, densities depend on the single draws and not on the tensor that stacks them: to differentiate with
    respect to z, give it (``poutine.condition``).

    :param unroll: the pass that it belongs to.
    :param conditional: ``Unroll.prior`` or ``Unroll.posterior``.
    :param batch_shape: plates.
    """

    arg_constraints: ClassVar = {}
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, unroll: Unroll, conditional: Callable[..., Gaussian], batch_shape: torch.Size):
        self.unroll, self.conditional = unroll, conditional
        super().__init__(batch_shape, torch.Size([unroll.steps, unroll.net.latent_dim]), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        """Return the same with more plates."""
        return StepwiseNormal(self.unroll, self.conditional, torch.Size(batch_shape))

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw trajectories, ``(*sample_shape, *batch_shape, T, dim)``."""
        noise = self.unroll.contexts[0].new_empty(self._extended_shape(torch.Size(sample_shape))).normal_()
        return self.rsample_from(noise)

    def rsample_from(self, noise: Tensor) -> Tensor:
        """Draw the trajectory that this standard normal noise of the same shape gives."""
        return self.unroll.draw(self.conditional, noise)

    def steps(self, z: Tensor) -> dist.Normal:
        """Return p(z_t | z_<t) of every step of a trajectory, as a Normal of batch shape ``(..., T, dim)``."""
        return self.unroll.normal(self.conditional, z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats of ``(..., T, dim)``, masked steps left out: shape ``(...)``."""
        log_prob = self.total(self.steps(z).log_prob(z))
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def total(self, values: Tensor) -> Tensor:
        """Sum ``(..., T, dim)`` over channels and real steps."""
        values, mask = values.sum(-1), self.unroll.mask
        return (values if mask is None else torch.where(mask, values, values.new_zeros(()))).sum(-1)


@register_kl(StepwiseNormal, StepwiseNormal)
def _kl_given_the_draws(q: StepwiseNormal, p: StepwiseNormal) -> Tensor:
    """Sum over steps of KL(q(z_t | z_<t) || p(z_t | z_<t)), each analytic given the draws before it.

    For the ladder it is analytic given the draws above; in both, the mean over draws is the KL.
    """
    if q.unroll is not p.unroll or q.unroll.trajectory is None:
        raise NotImplementedError("the KL of two trajectories is known for prior and posterior of one pass, once drawn")
    z = q.unroll.trajectory.z
    return q.total(kl_divergence(q.steps(z), p.steps(z)))
