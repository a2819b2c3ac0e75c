"""Facts of operators beside axes, sizes and symmetry: values of their results, roles of their operands."""
