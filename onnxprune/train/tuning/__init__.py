"""Parts of finetuning beside the training engine.

unfold               BatchNormalization put back where it was folded away, and folded again
original_statistics  statistics of the unpruned model in the metadata of the sparse model
teacher              outputs and inner tensors of another model, computed once
epoch_limit          the end of a training by the clock
validation           scores on held-back data, the best weights, and the early end
"""
