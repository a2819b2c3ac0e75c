"""What finetuning is made of, beside the engine that trains.

unfold      BatchNormalization put back where it was folded away, and folded again
"""
