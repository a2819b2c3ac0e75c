"""`run`: the whole loop, unattended and resumable.

journal     the work folder: which steps are done, from what, and what they left
data        data and metrics of a recipe, and what tells them apart from others
forecast    which steps there will be, and how long they will take
tracking    figures for TensorBoard and MLflow
stages      what each step does, from file to file
loop        the order of the steps, when to stop, and which iteration is the best

A run is an ordinary function whose steps are remembered: what decides a step's result (its options, and the
content of the files and data it reads) is kept with the result. A step whose inputs are as they were, and
whose files are still there, is not done again. Resuming, doing nothing and redoing only what a changed recipe
touches are all the same thing.
"""

from onnxprune.app.runner.journal import Journal, read_state
from onnxprune.app.runner.loop import run
from onnxprune.app.runner.stages import ONE_SHOT
from onnxprune.support.path_guard import STATE

__all__ = ["ONE_SHOT", "STATE", "Journal", "read_state", "run"]
