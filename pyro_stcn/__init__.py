"""Stochastic temporal convolutional networks in Pyro: a ladder of latents on any causal network.

The public names are in ``__init__.pyi``. Each is imported when it is first used: torch alone takes seconds, and the
command line has answers without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
