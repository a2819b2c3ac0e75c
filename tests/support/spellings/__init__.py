"""Equal forms of nodes, activations and weights, one file for each family."""
