"""What a test reads in a page."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements of a page, and its words."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.bad, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    def each(self, tag):
        return [attributes for one, attributes in self.elements if one == tag]

    @property
    def said(self):
        return re.sub(r"\s+", " ", "".join(self.words))
