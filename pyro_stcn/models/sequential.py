"""Models whose latents depend on the previous draw: VRNN, SRNN, Z-forcing, Variational Bi-LSTM.

Each states its conditionals (:class:`~pyro_stcn.models.unroll.Conditionals`) and its networks over x; the Pyro model,
the guide and the machine that takes one step at a time follow from them here.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from .base import Carry, SequenceModel, SharedGuide
from .filtering import ParticleFilter, Terms, gather
from .unroll import Conditionals, Once, Rows, State, StepwiseNormal, Trajectory, Unroll

__all__ = ["LSTMMemory", "SequentialGuide", "SequentialModel", "SequentialState"]


class SequentialState(NamedTuple):
    """What generation remembers: the networks over x, the memory of the latents, and whether a step was made."""

    carried: Any
    memory: State
    started: bool


class LSTMMemory(NamedTuple):
    """State of a forward LSTM."""

    h: Tensor
    c: Tensor


class SequentialModel(SequenceModel, Conditionals):
    """A model with one latent per step, "z1", that the next step depends on."""

    observation: nn.Module

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Return "z1"."""
        return ("z1",)

    @property
    def pointwise(self) -> bool:
        """No: z_t reaches all later steps."""
        return False

    # ------------------------------------------------------------------------------- stated by each system, beside the
    # conditionals

    def embed(self, frames: Tensor) -> Tensor:
        """Return what the networks read of each frame, by itself: ``(..., data_dim)`` to ``(..., dim)``."""
        return frames

    def contexts(self, past: Tensor, carried: Any = None) -> tuple[Rows, Any]:
        """Return what the past of x gives at each step, and what to carry to the steps after these.

        :param past: x_(t-1) embedded, for each step t, ``(batch, time, dim)``; zeros are embedded before the first.
        :param carried: what an earlier call returned; None at the beginning.
        """
        return (past,), None

    @abstractmethod
    def recognise(self, frames: Tensor, mask: Tensor | None, contexts: Rows) -> Rows:
        """Return what the guide knows at each step beyond the contexts, ``(batch, time, dim)`` each.

        :param frames: x_0 = 0, x_1 ... x_T embedded, ``(batch, time + 1, dim)``.
        """

    @abstractmethod
    def emission(self, state: State, contexts: Rows, z: Tensor) -> dist.TorchDistribution:
        """p(x_t | z_<=t, x_<t), given the state after z_t."""

    def auxiliary(self, x: Tensor, unroll: Unroll, trajectory: Trajectory) -> Tensor:
        """Return the training-only term of every step in nats, to be maximised: ``(..., time)``."""
        raise NotImplementedError(f"{type(self).__name__} has no training-only term")

    def draw_extra(self, x: Tensor, mask: Tensor | None) -> Rows:
        """Draw the latents that do not depend on each other; what they give is added to the contexts.

        :param x: ``(batch, time, data_dim)``, or ``(batch, data_dim)`` for a single step.
        """
        return ()

    # ----------------------------------------------------------------------------------------------- derived from that

    def begin(self, x: Tensor, mask: Tensor | None, *, recognise: bool = True) -> Unroll:
        """Return the pass over a clean batch: what the model and its guide know before anything is drawn.

        :param recognise: with what the guide knows; the model alone has no use for it.
        """
        return self.read(x, mask, recognise=recognise)[0]

    def read(
        self, x: Tensor, mask: Tensor | None, reading: Any = None, *, recognise: bool = True, window: bool = False
    ) -> tuple[Unroll, Any]:
        """Do what :meth:`begin` does for a part of a longer sequence.

        :param reading: what the call for the part before returned; None for the first.
        :param window: whether more parts follow.
        :returns: the pass, and the reading to go on from: the last step, and what the networks over x carry.
        """
        before, carried = (torch.zeros_like(x[:, :1]), None) if reading is None else reading
        frames = self.embed(torch.cat([before, x], dim=1))
        contexts, carried = self.contexts(frames[:, :-1], carried)
        recognition = self.recognise(frames, mask, contexts) if recognise else ()
        return Unroll(self, contexts, mask, recognition, window), (x[:, -1:].clone(), carried)

    def model(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        annealing_factor: float | Tensor = 1.0,
        auxiliary_weight: float = 0.0,
        *,
        unroll: Unroll | None = None,
        carry: Carry | None = None,
    ) -> None:
        """Generate ``x`` given its own past; see :meth:`SequenceModel.model`.

        :param unroll: the pass over a clean ``x``, if there is one: the guide passes both.
        :param carry: where the memory of the latents is kept, if ``x`` is a window of a longer sequence.
        """
        pyro.module(self.pyro_name, self)
        if unroll is None:
            x = self.clean(x, mask)
            unroll = self.begin(x, mask, recognise=bool(auxiliary_weight))
        with self.plates(x):
            with poutine.scale(scale=annealing_factor):
                unroll = unroll.extended(self.draw_extra(x, mask), None if carry is None else carry.value)
                z = pyro.sample("z1", StepwiseNormal(unroll, Unroll.prior, x.shape[:1]))
            trajectory = unroll.follow(z)
            if carry is not None:
                carry.value = type(trajectory.after)(*(value[..., -1, :].clone() for value in trajectory.after))
            emission = self.emission(trajectory.after, unroll.contexts, z)
            pyro.sample("x", self.over_time(emission, mask), obs=x)
            if auxiliary_weight:
                terms = self.auxiliary(x, unroll, trajectory)
                terms = terms if mask is None else torch.where(mask, terms, terms.new_zeros(()))
                pyro.factor("auxiliary", auxiliary_weight * terms.sum(-1))

    def filtering(self, x: Tensor, mask: Tensor | None, particles: int) -> SequentialFilter:
        """Return the particle filter of a clean batch."""
        return SequentialFilter(self, x, mask, particles)

    def initial_state(self, batch_size: int) -> SequentialState:
        """Return the state before the first step."""
        return SequentialState(None, self.initial_memory(torch.Size([batch_size])), False)

    def step(self, state: SequentialState, x_previous: Tensor) -> tuple[SequentialState, dist.TorchDistribution]:
        """Draw z_t from the prior and return p(x_t | z, x_<t); see :meth:`SequenceModel.step`."""
        contexts, carried = self.contexts(self.embed(x_previous.unsqueeze(1)), state.carried)
        contexts = tuple(row.squeeze(1) for row in contexts) + self.draw_extra(x_previous, None)
        memory = self.observe(state.memory, contexts) if state.started else state.memory
        z = pyro.sample("z1", dist.Normal(*self.prior(memory, contexts)).to_event(1))
        memory = self.absorb(memory, contexts, z)
        return SequentialState(carried, memory, True), self.emission(memory, contexts, z)

    def step_given(
        self, state: SequentialState, x_previous: Tensor, x: Tensor, particles: int | None = None
    ) -> tuple[SequentialState, Terms]:
        """Draw z_t from the guide, where that does not look ahead; see :meth:`SequenceModel.step_given`."""
        if self.guide_sees_future:
            return super().step_given(state, x_previous, x)
        frames = self.embed(torch.stack([x_previous, x], dim=1))
        contexts, carried = self.contexts(frames[:, :1], state.carried)
        recognition = tuple(row.squeeze(1) for row in self.recognise(frames, None, contexts))
        contexts = tuple(row.squeeze(1) for row in contexts) + self.draw_extra(x, None)
        memory = self.observe(state.memory, contexts) if state.started else state.memory
        prior = Once(self, memory, contexts)
        p, q = dist.Normal(*prior()), dist.Normal(*self.posterior(memory, contexts, recognition, prior))
        z = q.rsample()
        memory = self.absorb(memory, contexts, z)
        terms = (p.log_prob(z).sum(-1), q.log_prob(z).sum(-1), self.emission(memory, contexts, z).log_prob(x))
        return SequentialState(carried, memory, True), Terms(*terms)

    def state_after(self, x: Tensor, *, from_guide: bool = True) -> SequentialState:
        """Return the state behind ``x``, in one pass; see :meth:`SequenceModel.state_after`."""
        unroll, (_, carried) = self.read(x, None, recognise=from_guide)
        carry = Carry()
        if from_guide:
            self.guide(x, prepared={"x": x, "unroll": unroll}, carry=carry)
            self.guide.release()
        else:
            self.model(x, unroll=unroll, carry=carry)
        return SequentialState(carried, carry.value, True)


class SequentialFilter(ParticleFilter):
    """A sequential model over one batch, K particles of every sequence at a time."""

    def __init__(self, net: SequentialModel, x: Tensor, mask: Tensor | None, particles: int):
        self.net, self.x, self.steps = net, x, x.shape[1]
        self.lead = torch.Size([particles, x.shape[0]])
        with pyro.plate("particles", particles, dim=-2), pyro.plate("sequences", len(x), dim=-1):
            self.unroll = net.begin(x, mask).extended(net.draw_extra(x, mask))

    def start(self) -> State:
        """Return the memory before the first step."""
        return self.net.initial_memory(self.lead)

    def advance(self, t: int, state: State) -> tuple[State, Terms]:
        """Draw z_t from the guide and score the step."""
        unroll = self.unroll
        state, prior = unroll.enter(t, state)
        posterior = unroll.distribution_at(t, Unroll.posterior, state, prior)
        z = posterior.loc + posterior.scale * torch.randn_like(posterior.loc.expand(*self.lead, -1))
        log_prior, log_posterior = (
            dist.Normal(*g, validate_args=False).log_prob(z).sum(-1) for g in (prior(), posterior)
        )
        contexts = unroll.contexts_at(t)
        state = self.net.absorb(state, contexts, z)
        return state, Terms(log_prior, log_posterior, self.net.emission(state, contexts, z).log_prob(self.x[:, t]))

    def select(self, state: State, ancestors: Tensor) -> State:
        """Take over the memory of the ancestors."""
        return type(state)(*(gather(value, ancestors) for value in state))


class SequentialGuide(SharedGuide):
    """q(z | x) from the model's own recurrence: what it computes on the way, the model finds."""

    net: SequentialModel

    def prepare(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        """Compute the contexts and the recognition features."""
        x = self.net.clean(x, mask)
        return {"x": x, "unroll": self.net.begin(x, mask)}

    def read(self, x: Tensor, mask: Tensor | None = None, reading: Any = None) -> tuple[dict[str, Any], Any]:
        """Compute the contexts and the recognition features of a window."""
        if self.net.guide_sees_future:
            return super().read(x, mask, reading)
        x = self.net.clean(x, mask)
        unroll, reading = self.net.read(x, mask, reading, window=True)
        return {"x": x, "unroll": unroll}, reading

    def get_posterior(self, name: str, prior: dist.TorchDistribution) -> dist.TorchDistribution:
        """q(z_t | z_<t, x) of all steps, from the prior of the same site."""
        if not isinstance(prior, StepwiseNormal):
            return prior  # a latent that is drawn as the model does
        return StepwiseNormal(prior.unroll, Unroll.posterior, prior.batch_shape)
