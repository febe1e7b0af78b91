"""Maps of the evidence for a trained model's answer, and tests of these maps."""
