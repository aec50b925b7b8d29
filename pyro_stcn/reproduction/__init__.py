"""The paper's tables on data of yours: what would be run, running it, and our figures beside the published ones."""

from .budget import BUDGETS, Budget
from .cost import Cost, cost_table, measured_costs, rough_costs
from .execution import Result, reproduce
from .figure import draw_figure
from .plan import Plan, PlannedRow, column_of, plan
from .report import csv_table, markdown_report

__all__ = [
    "BUDGETS",
    "Budget",
    "Cost",
    "Plan",
    "PlannedRow",
    "Result",
    "column_of",
    "cost_table",
    "csv_table",
    "draw_figure",
    "markdown_report",
    "measured_costs",
    "plan",
    "reproduce",
    "rough_costs",
]
