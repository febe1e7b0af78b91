"""Find what makes a dataset's split untrustworthy: copies, shared patients, contradicting or doubtful labels."""
