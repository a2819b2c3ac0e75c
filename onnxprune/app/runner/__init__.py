"""`run`: the whole loop, unattended and resumable.

journal          the work folder: finished steps, with their inputs and files
recipe_data      data and metrics of a recipe, and their digests
run_forecast     the steps to come and their duration
tracking         figures for TensorBoard and MLflow
run_files        the files and options that steps share
start_stages     the steps before the first round
stages           the steps of the rounds and those after them, from file to file
dense_latency    dense forms of the models of a run, and their latency
loop             the order of the steps, the end of the run, and the choice of the best iteration
recipe_template  a recipe fitted to a model, with every key explained
record           the form of ``state.json``: the record of a run, which reports read
take_over        finished steps of one run, taken over into the work folder of another
time_limits      time limits of the steps of a run that can be cut short

A run is an ordinary function with memoised steps: the inputs that determine a step's result (its options, and
the content of the files and data it reads) are kept with the result. A step whose inputs are unchanged, and
whose files are still there, is not done again. Resumption, an idle run and the repetition of only those steps
that a changed recipe touches are all the same mechanism.
"""

from onnxprune.app.runner.journal import Journal, read_state
from onnxprune.app.runner.loop import run
from onnxprune.app.runner.stages import ONE_SHOT
from onnxprune.support.path_guard import STATE

__all__ = ["ONE_SHOT", "STATE", "Journal", "read_state", "run"]
