"""What plugins register: frozen records, the hooks that return them, and their validation."""
