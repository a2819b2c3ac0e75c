"""Parts of finetuning beside the training engine.

unfold      BatchNormalization put back where it was folded away, and folded again
origin      what a sparse model is told of the model it was pruned from
teacher     what is learnt from another model, asked once
exam        scores on held-back data, the best weights, and when it is enough
"""
