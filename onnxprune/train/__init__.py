"""Training ONNX models with onnxruntime.training, in a worker process of its own.

    engine      training of a model: the only entry
    gradients   gradients of a loss, for importance and analysis
    run, preparation
                a training in progress, and the decisions before it
    checkpoint  the saved state from which a killed training goes on
    settings    options and results of a run
    sidecar     where the training build of onnxruntime lives, and how it gets there
    training_copy, dialect, rewrites, support, trainables, losses, own_loss, objective
                from the user's model to a graph that can be trained
    channel_major, carriers
                the neighbourhood of depthwise convolutions, as matrix products
    client, wire, worker, trainer, optimizers
                the process that trains it

Nothing is imported here: the worker is a module of this package and must start without the rest of it.
"""
