"""The canonical form of a module, which the analyses read: one file a rewrite."""
