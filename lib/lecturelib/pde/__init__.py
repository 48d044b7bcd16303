"""Part I: neural networks for partial differential equations."""
