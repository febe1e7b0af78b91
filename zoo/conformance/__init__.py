"""The conformance kit: checks of what plugins register, one claim each."""
