"""Language models in a few lines, with weights that a package brings along."""
