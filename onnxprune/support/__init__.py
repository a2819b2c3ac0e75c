"""Support that knows no model: files, locks, text, progress, callables."""
