"""Language models in a few lines, with weights that a package brings along."""
import importlib
import warnings

with warnings.catch_warnings():                            # in a notebook tqdm asks for widgets, which nobody here needs
    warnings.filterwarnings("ignore", message="IProgress not found")
    importlib.import_module("tqdm.auto")
