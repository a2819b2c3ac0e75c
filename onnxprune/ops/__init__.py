"""What is known of each operator: its axes and the sizes of its results."""
