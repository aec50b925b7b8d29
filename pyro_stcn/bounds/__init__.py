"""Bounds on log p(x) as Pyro ELBOs, to be swapped in wherever ``Trace_ELBO`` is used."""

from .dreg import DReG
from .fivo import FIVO, multinomial, systematic
from .freebits import FreeBits
from .iwae import IWAE, PARTICLES

__all__ = ["FIVO", "IWAE", "PARTICLES", "DReG", "FreeBits", "multinomial", "systematic"]
