"""Stochastic temporal convolutional networks in Pyro."""
