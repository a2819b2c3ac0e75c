"""Training ONNX models with onnxruntime.training, in a worker process of its own.

    engine      train a model: the one door
    gradients   gradients of a loss, for importance and analysis
    run, job    a training in progress, and what is decided before it
    checkpoint  what a training goes on from when it was killed
    settings    what a run is told and what it returns
    sidecar     where the training build of onnxruntime lives, and how it gets there
    training_copy, dialect, rewrites, support, trainables, losses, own_loss, objective
                from the user's model to a graph that can be trained
    channel_major, carriers
                what lies around depthwise convolutions, as matrix products
    client, wire, worker, trainer, optimizers
                the process that trains it

Nothing is imported here: the worker is a module of this package and must start without the rest of it.
"""
