"""Training ONNX models with the installed onnxruntime, or with onnxruntime-training, in a worker process.

engine            training of a model: the only entry
gradients         gradients of a loss, for saliency and analysis
settings          options and results of a run
step_sizes        step sizes that suit a network
training_run, preparation, batch_samples    a training in progress, and the decisions before it
checkpoint        the saved state from which a killed training goes on
losses, own_loss, objective, output_heads    the loss behind the outputs
training_copy, rewrites, emit, trainables, forward    the user's model as a graph that can be trained
engines           the choice between the two engines
step, step_graphs, pullbacks, stock    the stock engine: one graph of a step
dialect, gradient_support, artifacts    onnxruntime-training's operators, and its artifacts
channel_major, carriers    the neighbourhood of depthwise convolutions, as matrix products
sidecar           the place of the training build of onnxruntime, and its installation
client, wire, training_worker, trainer, optimizers    the process that trains
tuning            parts of finetuning beside the engine

Nothing is imported here: the worker is a module of this package and must start without the rest of it.
"""
