"""Lets a test stop the build between two pages that are being written."""
from lecturelib import small


def writing(app, page, template, context, doctree):
    if page == "book/pde/page":
        small.hold("writing")


def setup(app):
    app.connect("html-page-context", writing)
    return {"version": "1", "parallel_read_safe": True}
