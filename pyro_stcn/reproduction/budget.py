"""How much a reproduction may cost, and what has to be said of its figures then."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BUDGETS", "Budget"]


@dataclass(frozen=True)
class Budget:
    """How much a reproduction may cost.

    :param name: what it is called.
    :param small: take the small preset of every system, not the one at the paper's size.
    :param steps: updates of every run; None leaves what the presets say.
    :param particles: K, the draws per sequence when it is scored.
    :param says: what has to be known of figures that were made with it.
    """

    name: str
    small: bool
    steps: int | None
    particles: int
    says: str


#: name -> :class:`Budget`
BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            "full",
            False,
            None,
            40,
            "models at the paper's sizes. The paper gives no number of updates (it trains for epochs, stopped early); "
            "here it is fixed, and the weights of the best validation are scored",
        ),
        Budget(
            "small",
            True,
            None,
            40,
            "small models and few updates, for two CPU cores: these figures say whether the rows can be run and how "
            "they compare at that size, not what the paper's models are worth",
        ),
        Budget(
            "tiny",
            True,
            2,
            2,
            "a smoke test: small models that are hardly trained. THESE FIGURES MEAN NOTHING but that every row runs",
        ),
    )
}
