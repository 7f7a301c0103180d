"""Data: image folders, tables, data sets of Hugging Face, and the built-in tasks."""

from tether.data.describe import describe
from tether.data.extra import load_inputs
from tether.data.load import load_data
from tether.data.table import DataSource, Notice, Table

__all__ = ["DataSource", "Notice", "Table", "describe", "load_data", "load_inputs"]
