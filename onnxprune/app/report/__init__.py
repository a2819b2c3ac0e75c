"""`report`: the results of a run, as a page.

report_content  the content of the page, gathered from the work folder
charts          figures as SVG
plots           figures as PNG and PDF
page            facts and figures put into a template: one HTML file without a network, or Markdown
"""

from onnxprune.app.report.page import FORMATS, figures, render
from onnxprune.app.report.plots import IMAGES, plots
from onnxprune.app.report.report_content import collect

__all__ = ["FORMATS", "IMAGES", "collect", "figures", "plots", "render"]
