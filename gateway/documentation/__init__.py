"""The documentation: the pages of ``static/docs``, as every gateway serves them in its own version.

markdown   one page's Markdown as HTML, its headings, and the texts that the search looks through
book       all pages: their order, their names in addresses, where links between them lead
frame      the HTML around a page: search, list of pages, headings, previous and next
routes     ``GET /docs/…``
"""
