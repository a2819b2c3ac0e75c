"""Support without any knowledge of models: files, locks, text, progress, callables."""
