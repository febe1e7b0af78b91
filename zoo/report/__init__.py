"""Show boards, comparisons, audits and catalogs as text, markdown, CSV, JSON and HTML."""
