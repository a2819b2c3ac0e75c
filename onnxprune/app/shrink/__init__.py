"""`shrink`: the whole job in one command, over the runner and its journal.

recipe_choice    the recipe that suits a model, its data and the time there is
shrink_forecast  how long its steps will take, measured before they begin
first_plan       the first plan, by the best way that fits into the time
job              the order of the work: a first result, other plans, then training for the time that is left
job_state        the state of a job: decisions, and the time it has taken
delivery         the result: the file, its figures, the requests that were not met
data_free        the way without samples
plan_comparison  plans by other ways, each repaired, and the better one taken over
int8_comparison  static quantisation on the same samples, and the four models side by side
"""

from onnxprune.app.shrink.data_free import shrink_without_data
from onnxprune.app.shrink.job import shrink
from onnxprune.app.shrink.recipe_choice import ShrinkOptions

__all__ = ["ShrinkOptions", "shrink", "shrink_without_data"]
