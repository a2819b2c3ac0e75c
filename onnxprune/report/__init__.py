"""`report`: what a run has done, as a page.

facts       everything the page says, gathered from the work folder
charts      figures as SVG
plots       figures as PNG and PDF
page        facts and figures put into a template: one HTML file without a network, or Markdown
"""

from onnxprune.report.facts import collect
from onnxprune.report.page import FORMATS, figures, render
from onnxprune.report.plots import IMAGES, plots

__all__ = ["FORMATS", "IMAGES", "collect", "figures", "plots", "render"]
