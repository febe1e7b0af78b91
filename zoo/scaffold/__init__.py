"""Projects of new plugins, from templates."""
