"""Decisions about a network, each with a mask, a rewrite and a cost: channels."""
