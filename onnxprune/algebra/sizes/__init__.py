"""The algebra of sizes: polynomials with division, minimum, comparison, and their proofs."""
