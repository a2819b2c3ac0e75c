"""Training ONNX models with onnxruntime.training, in a worker process of its own.

    engine      train a model: the one door
    gradients   gradients of a loss, for importance and analysis
    job         what is decided before a worker starts
    settings    what a run is told and what it returns
    sidecar     where the training build of onnxruntime lives, and how it gets there
    training_copy, dialect, rewrites, support, trainables, losses
                from the user's model to a graph that can be trained
    client, wire, worker, optimizers
                the process that trains it

Nothing is imported here: the worker is a module of this package and must start without the rest of it.
"""
