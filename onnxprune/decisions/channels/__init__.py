"""Removed channels: first as zeros, then cut.

planned         the plan in a sparse model
masks           its zeros
ghosts          sums corrected by the contributions of removed channels
configuration   files beside a model that state its width
interface       inputs and outputs that shrink with it
shrink          the dense model
adapted_inputs  the dense model, fed with inputs of the whole one
"""
