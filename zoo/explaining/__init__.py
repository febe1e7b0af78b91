"""Where a trained model looks: maps of the evidence for an answer, and numbers about these maps."""
