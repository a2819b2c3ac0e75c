"""Support without any knowledge of models: files, locks, text, progress, callables.

callables     code of the user's own, named ``module:callable``
entry_points  operators, criteria, budgets and passes of other packages
option_fields, common_options    options as fields of a dataclass, each written once
json_forms    JSON of a known form; each error names the place of the fault
wording       texts of other origin, made fit to be shown
globs         names that users give: literally, or as a pattern
digests       digests of files
path_guard    all paths that a command reads and writes, checked before any work
staging       files that appear whole or not at all, and files that may be deleted
locks         locks between processes
external, mapped    tensors whose values lie in other files, and mapped ones
regions       mapped files, and values that are computed when they are read
sample_files  files that hold samples
memory        the memory that a command may allocate
processors    the processors of this machine
native_output    the standard output of compiled libraries, discarded
progress      progress of long steps
time_limit    time limits of optional work
lifeline      workers that end with their parent
"""
