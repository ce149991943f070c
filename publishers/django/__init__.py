"""The outbox and tokens for a project of Django.

    INSTALLED_APPS = [..., "publishers.django"]                # then: python manage.py migrate gateway_outbox
    GATEWAY = {"TOKEN_SECRET": "…"}                            # the settings; gateway_settings.py lists them

    from publishers.django import publish_on_commit            # in a view
    from publishers.django.token_view import token_view        # in urls.py: path("my-token", token_view)

    apps · models · migrations         the app, whose label is gateway_outbox, and its two tables
    outbox                             publications, notifications and jobs in Django's transactions
    token_view                         the token of the user who is logged in
    gateway_settings                   the settings
    management                         `manage.py gateway_relay`, which sends what the outbox holds

``publish_on_commit`` writes a row in the transaction of the database connection that Django uses, when it is called. So what a savepoint
or an exception undoes is not published, and the channel is locked from the call to the commit: call it last in a transaction.
"""

from .outbox import enqueue_on_commit, get_publisher, notify_on_commit, publish_on_commit

__all__ = ["enqueue_on_commit", "get_publisher", "notify_on_commit", "publish_on_commit"]
