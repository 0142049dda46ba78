"""Web pages: plain HTML from the same services as the API; every form works without scripts."""

from api.pages import account, entry, gallery, subjects, trainings, webhooks

ROUTERS = (entry.router, subjects.router, trainings.router, gallery.router, account.router, webhooks.router)
