"""The machine: files, locks, caches, downloads, devices, worker processes, progress."""
