"""Web pages: plain HTML from the same services as the API; every form works without scripts."""

ROUTERS: tuple = ()
