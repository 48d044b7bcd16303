"""Part II: quantizers, and the theory that judges them (pages `quantization/...`)."""
