"""What finetuning is made of, beside the engine that trains.

unfold      BatchNormalization put back where it was folded away, and folded again
teacher     what is learnt from another model, asked once
exam        scores on held-back data, the best weights, and when it is enough
"""
