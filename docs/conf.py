"""Settings of Sphinx: `make docs` builds build/docs, every warning is an error.

The sources are the repository, not this folder alone: README.md and CONTRIBUTING.md are pages too, and a link to any
file of the repository is checked and leads to a copy of it. Addresses on the network are not asked.
"""

from gkd_dist import __version__

project = "gkd_dist"
release = __version__
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docker/README.md"]
exclude_patterns = [".*", "build", "dist", "runs", "gkd_dist", "tests", "*.egg-info"]
myst_heading_anchors = 4
nitpicky = True
html_theme = "furo"
html_title = f"gkd_dist {release}"
html_show_copyright = False
html_copy_source = False
html_static_path = ["site"]
html_css_files = ["site.css"]
html_extra_path = ["root"]  # index.html leads to docs/index.html
