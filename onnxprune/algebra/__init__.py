"""Axes and sizes as algebra: factors, sums and products of axes; polynomials in the input's symbols."""
